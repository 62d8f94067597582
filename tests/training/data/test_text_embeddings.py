"""Text embeddings in a file: written once, mapped by every process, rounded as the networks do."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from siamese_diffusion.training.data import text_embeddings
from siamese_diffusion.training.data.text_embeddings import TextEmbeddings
from siamese_diffusion.training.errors import CacheError
from siamese_diffusion.training.method.base_model import TextEncoder
from support.small_datasets import CPU, Encoder

CAPTIONS = [f"a polyp {number}" for number in range(11)]


def prepare(texts: TextEmbeddings, captions: list[str] = CAPTIONS, first: bool = True) -> int:
    """How many captions were encoded."""
    encoder = Encoder()
    texts.prepare(cast(TextEncoder, encoder), captions, CPU, quiet=True, first=first)
    return encoder.encoded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_process_encodes_and_all_map_the_same_file(dtype: torch.dtype, tmp_path: Path) -> None:
    first, other, apart = (TextEmbeddings(folder, dtype) for folder in (tmp_path,) * 2 + (None,))
    assert prepare(first) == len(CAPTIONS) + 1  # the empty one
    (file,) = tmp_path.iterdir()
    size = file.stat().st_size
    assert size - 12 * 77 * 4 * dtype.itemsize < 200  # a header, and nothing twice
    assert prepare(other, first=False) == 0
    assert prepare(apart, first=False) == 12  # on a disk of its own
    asked = ["a polyp 7", "", "a polyp 7"]
    expected = cast(torch.Tensor, Encoder().encode(asked)).to(dtype)
    for texts in (first, other, apart):
        assert torch.equal(texts.load(asked), expected)
    if os.name == "posix":
        assert str(file) in Path("/proc/self/maps").read_text(encoding="utf-8")
    first.remove()
    assert not file.exists()


def test_only_what_is_kept_stays_and_other_captions_are_another_file(tmp_path: Path) -> None:
    kept = TextEmbeddings(tmp_path, kept=True)
    assert prepare(kept) == 12
    kept.remove()
    assert prepare(TextEmbeddings(tmp_path, kept=True)) == 0
    assert prepare(TextEmbeddings(tmp_path, kept=True), ["another"]) == 2
    assert prepare(TextEmbeddings(tmp_path, torch.float16, kept=True)) == 12


def test_a_damaged_file_and_a_full_disk_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(TextEmbeddings(tmp_path))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CacheError, match=r"\.npy is damaged .*Delete it"):
        prepare(TextEmbeddings(tmp_path))
    file.unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(text_embeddings, "replacing", full)
    with pytest.raises(CacheError, match=r"cannot write .*No space left on device"):
        prepare(TextEmbeddings(tmp_path))
    assert [*tmp_path.iterdir()] == []


def as_npy(values: object) -> bytes:
    np.save(file := BytesIO(), np.asarray(values), allow_pickle=True)
    return file.getvalue()


def as_npz() -> bytes:
    np.savez(file := BytesIO(), a=np.zeros(3))
    return file.getvalue()


HEADER = b"\x93NUMPY\x01\x00v\x00"
FILES = {
    "empty": b"",
    "text": b"x" * 1000,
    "pickle": as_npy([{}]),
    "archive": as_npz(),
    "no header": HEADER,
    "half a header": HEADER + b"{'descr': '<i4', 'shape': (12,".ljust(117) + b"\n",
    "deep header": HEADER + b"(" * 117 + b"\n",
    "huge": HEADER
    + b"{'descr': '<i4', 'fortran_order': False, 'shape': (12, 77, 4000000000000), }".ljust(117)
    + b"\n",
    "negative": HEADER
    + b"{'descr': '<i4', 'fortran_order': False, 'shape': (12, 77, -4), }".ljust(117)
    + b"\n",
    "another type": as_npy(np.zeros((12, 77, 4), np.float64)),
    "of fewer captions": as_npy(np.zeros((11, 77, 4), np.int32)),
    "flat": as_npy(np.zeros(12, np.int32)),
    "one value": as_npy(np.int32(1)),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_of_another_kind_is_named(content: bytes, tmp_path: Path) -> None:
    prepare(TextEmbeddings(tmp_path))
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    with pytest.raises(CacheError, match=r"\.npy is damaged .*Delete it") as error:
        prepare(TextEmbeddings(tmp_path))
    assert str(error.value).isprintable()


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    prepare(TextEmbeddings(tmp_path))
    (file,) = tmp_path.iterdir()
    values = np.load(file).view(np.float32)
    values[3, 0, 0] = np.nan
    file.write_bytes(as_npy(values.view(np.int32)))
    prepare(texts := TextEmbeddings(tmp_path))
    assert texts.load([""]).shape == (1, 77, 4)
    with pytest.raises(CacheError, match=r"\.npy is damaged .*not finite.*Delete it"):
        texts.load(["", *CAPTIONS])


@pytest.mark.parametrize("how", [os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_a_pipe_or_a_broken_link_is_replaced(how: Callable[[Path], object], tmp_path: Path) -> None:
    prepare(TextEmbeddings(tmp_path))
    (file,) = tmp_path.iterdir()
    file.unlink()
    how(file)
    assert prepare(TextEmbeddings(tmp_path)) == 12
    assert file.is_file() and not file.is_symlink()


def test_half_precision_is_what_the_networks_would_have_rounded_to() -> None:
    """Where autocast computes, a layer sees the same values, whether they are stored so or not."""
    torch.manual_seed(0)
    layer, text = torch.nn.Linear(8, 8), torch.randn(2, 77, 8)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            assert torch.equal(layer(text), layer(text.to(dtype)))
