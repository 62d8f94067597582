"""What the system answers to a write is told, whichever library has hidden it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from siamese_diffusion.common.files import describe_error
from siamese_diffusion.models.weights import write_weights
from siamese_diffusion.training.run.states import write_optimizer
from support.full_disk import at_most

TENSORS = {"weight": torch.zeros(100_000)}


def test_safetensors_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    with at_most(1000), pytest.raises(OSError) as raised:
        write_weights(path, TENSORS, {})
    assert raised.value.errno == errno.EFBIG
    assert describe_error(raised.value) == f"{path}: File too large"
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"old"


def test_torch_on_a_full_disk(tmp_path: Path) -> None:
    with at_most(1000), pytest.raises(OSError) as raised:
        write_optimizer(tmp_path, TENSORS)
    assert raised.value.errno == errno.EFBIG
    assert describe_error(raised.value) == f"{tmp_path / 'optimizer.pt'}: File too large"
