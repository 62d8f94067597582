"""Text embeddings in a file: written once, mapped by every process, rounded as the networks do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

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


def test_half_precision_is_what_the_networks_would_have_rounded_to() -> None:
    """Where autocast computes, a layer sees the same values, whether they are stored so or not."""
    torch.manual_seed(0)
    layer, text = torch.nn.Linear(8, 8), torch.randn(2, 77, 8)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            assert torch.equal(layer(text), layer(text.to(dtype)))
