"""Fixture for tests that run workflows in the server: weights and a mask in its folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from seeded_weights import made_up_bundle
from siamese_diffusion.models.weights import merge, read_weights, write_weights
from siamese_diffusion.tools.comfy_host import ComfyHost
from workflow_prompts import BASE, BUNDLE, MASK, MERGED, write_mask


@pytest.fixture(scope="session")
def served(host: ComfyHost, nano: Path) -> ComfyHost:
    """The server with BASE, BUNDLE and MERGED in its model folders and MASK in its input folder."""
    base = host.models / "checkpoints" / BASE
    shutil.copy(nano, base)
    tensors = read_weights(base).tensors
    write_weights(host.models / "controlnet" / BUNDLE, made_up_bundle(tensors), {})
    bundle = read_weights(host.models / "controlnet" / BUNDLE)
    write_weights(host.models / "checkpoints" / MERGED, merge(tensors, bundle), {})
    write_mask(host.input / MASK, (slice(8, 40), slice(16, 56)))
    return host
