"""Fixtures for tests on a checkout of sd-scripts, whose UNet is made small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from siamese_diffusion.training.hosts.sd_scripts.library import Library, load_library
from torch import nn

from support.sd_scripts_base import build_parts, lower_sizes, write_checkpoint


@pytest.fixture(scope="session")
def library(sd_scripts: Path) -> Iterator[Library]:
    """sd-scripts' package `library`, with the UNet sizes of the checkpoint below."""
    loaded = load_library(sd_scripts)
    with pytest.MonkeyPatch.context() as patch:
        lower_sizes(loaded, patch)
        yield loaded


@pytest.fixture(scope="session")
def parts() -> dict[str, nn.Module]:
    """UNet, autoencoder and text encoder with random weights."""
    return build_parts()


@pytest.fixture(scope="session")
def sd_scripts_checkpoint(
    library: Library, parts: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The parts as a single file, which both training hosts load."""
    return write_checkpoint(tmp_path_factory.mktemp("both") / "base.safetensors", parts, library)
