"""Fixtures of all tests of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from siamese_diffusion.models.weights import StateDict, read_weights
from support.tiny_base import write_tiny_base
from support.tiny_runs import train


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps its settings for the whole process; each run here has its own."""
    yield
    forget_accelerator()


def forget_accelerator() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture(scope="session")
def plain_folder(tiny: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps on batches of four."""
    folder = tmp_path_factory.mktemp("plain")
    train(tiny, pairs, folder, "--train_batch_size=4")
    forget_accelerator()
    return folder


@pytest.fixture(scope="session")
def plain(plain_folder: Path) -> StateDict:
    return read_weights(plain_folder / "siamese.safetensors").tensors
