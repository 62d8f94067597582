"""One strict reader of masks: training and nodes take and refuse the same files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from siamese_diffusion.common.mask_files import picture_files
from siamese_diffusion.common.pictures import read_mask
from support.processes import without_rights
from support.small_datasets import lesion, load, problems, save, write_list

pytest_plugins = ["support.comfy_inside"]


def test_both_halves_read_the_same_masks(pack: SimpleNamespace, tmp_path: Path) -> None:
    grey = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)
    files = {
        "white.png": lesion(),
        "black.png": lesion() * 0,
        "grey.png": (grey % 256).astype(np.uint8),
        "wide.png": grey * 64,  # 16 bits
    }
    for name, pixels in files.items():
        path = save(tmp_path / name, pixels)
        half = 32767 if pixels.dtype == np.uint16 else 127
        assert np.array_equal(read_mask(path), pixels > half)
        assert np.array_equal(pack.folders.read_mask(path)[0].numpy(), pixels > half)


def test_both_halves_refuse_each_mask_of_zeros_and_ones(
    pack: SimpleNamespace, tmp_path: Path
) -> None:
    write_list(tmp_path, [(32, 32)] * 12)
    save(tmp_path / "masks/0.png", lesion() * 0)  # empty, which masks may be
    good, wrong = load(tmp_path), [tmp_path / f"masks/{number}.png" for number in range(2, 12)]
    assert len(good.pairs) == 12
    for number, path in enumerate(wrong):
        brightest = 1 if number % 2 else 127
        save(path, lesion() // 255 * np.uint8(brightest))
        message = f"brightest value is {brightest} of 255; .* Multiply by {255 // brightest}"
        with pytest.raises(ValueError, match=message) as refused:
            pack.folders.read_mask(path)
        assert str(refused.value).startswith(str(path))
    report = problems(tmp_path)
    assert "10 problems" in report
    listed = [line for line in report.splitlines() if "brightest value is" in line]
    assert len(listed) == 10
    for number, (path, line) in enumerate(zip(wrong, listed, strict=True), start=3):
        assert f"line {number}: mask {path}: " in line


TWINS = [("A.png", "a.png"), ("stra\u00dfe.png", "STRASSE.bmp"), ("\u00e9.png", "e\u0301.png")]


@pytest.mark.parametrize("names", [*TWINS, ("a/1.png", "A/1.png")])
def test_names_that_windows_or_a_mac_takes_for_one_are_refused(
    names: tuple[str, str], tmp_path: Path
) -> None:
    """Their pairs would overwrite each other there."""
    for name in names:
        save(tmp_path / name, lesion())
    with pytest.raises(ValueError, match="have the same name, or one that"):
        picture_files(tmp_path, subfolders=True)


def test_a_subfolder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        save(tmp_path / name, lesion())
    assert [*picture_files(tmp_path, subfolders=True)] == ["a/1", "b/2"]
    (tmp_path / "b").chmod(0)
    try:
        with without_rights(), pytest.raises(ValueError, match=r"b: cannot be read \(Permission"):
            picture_files(tmp_path, subfolders=True)
    finally:
        (tmp_path / "b").chmod(0o700)
