"""The order of numbered files."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from siamese_diffusion.common.natural_order import natural


def test_numbers_count_as_numbers_whatever_the_case() -> None:
    names = ["b1", "a10", "A2", "a1b12", "a1b3", "a", "10", "9", "a02"]
    expected = ["9", "10", "a", "a1b3", "a1b12", "A2", "a02", "a10", "b1"]
    assert sorted(names, key=natural) == expected


def test_folders_are_kept_together_and_digits_of_other_scripts_do_no_harm() -> None:
    paths = [PurePosixPath(name) for name in ("p10/a2.png", "p2/a10.png", "p2/a9.png")]
    assert [str(path) for path in sorted(paths, key=natural)] == [
        *("p2/a9.png", "p2/a10.png", "p10/a2.png")
    ]
    assert natural(PureWindowsPath("p2\\a9.png")) == natural(PurePosixPath("p2/a9.png"))
    sorted(["a²", "a٣", "a1", "²", "1"], key=natural)
