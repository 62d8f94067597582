"""Fixtures for tests that run workflows in the server: weights and a mask in its folders."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from siamese_diffusion.models.weights import merge, read_weights, write_weights
from siamese_diffusion.tools.comfy_host import ComfyHost

from support.seeded_weights import made_up_bundle
from support.workflow_prompts import BASE, BUNDLE, MASK, MERGED, write_mask


@pytest.fixture(scope="session")
def served(host: ComfyHost, nano: Path) -> ComfyHost:
    return provide(host, nano)


def provide(host: ComfyHost, nano: Path) -> ComfyHost:
    """The server with BASE, BUNDLE and MERGED in its model folders and MASK in its input folder."""
    base = host.models / "checkpoints" / BASE
    shutil.copy(nano, base)
    tensors = read_weights(base).tensors
    write_weights(host.models / "controlnet" / BUNDLE, made_up_bundle(tensors), {})
    bundle = read_weights(host.models / "controlnet" / BUNDLE)
    write_weights(host.models / "checkpoints" / MERGED, merge(tensors, bundle), {})
    write_mask(host.input / MASK, (slice(8, 40), slice(16, 56)))
    return host


@pytest.fixture
def folder(served: ComfyHost) -> str:
    """Name of a new folder in the input folder: masks of growing width, one in a subfolder."""
    root = Path(tempfile.mkdtemp(prefix="my masks ", dir=served.input))
    (root / "sub").mkdir()
    for width, stem in enumerate(("m1", "m2", "m10", "sub/m3"), start=1):
        write_mask(root / f"{stem}.png", (slice(0, 32), slice(0, 8 * width)))
    (root / "notes.txt").write_text("not a mask", "utf-8")
    (root / ".hidden.png").write_bytes(b"")
    return root.name


@pytest.fixture
def three_masks(served: ComfyHost, tmp_path: Path) -> str:
    """Name of a new folder in the input folder: three masks."""
    root = served.input / tmp_path.name
    root.mkdir()
    for number in (1, 2, 3):
        write_mask(root / f"m{number}.png", (slice(8, 32), slice(8, 8 + 8 * number)))
    return root.name
