"""What an earlier check has found is taken over, unless a file has changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from siamese_diffusion.common import pair_check
from siamese_diffusion.common.pair_check import check_pairs, check_unchanged
from siamese_diffusion.common.pair_info import CheckCache, PairInfo
from siamese_diffusion.common.pairs import DatasetError, Pair
from siamese_diffusion.common.pictures import read_image
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from support.small_datasets import lesion, load, photo, save, write_list, write_palette_masks

HOUR = 3_600 * 10**9


def settle(folder: Path, hours: int = 1) -> None:
    """As if its pictures had been written so long ago."""
    then = time.time_ns() - hours * HOUR
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(then, then))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were decoded."""
    names: list[str] = []

    def counting(path: Path) -> np.ndarray:
        names.append(path.name)
        return read_image(path)

    monkeypatch.setattr(pair_check, "read_image", counting)
    return names


def check(folder: Path, cache: CheckCache, mode: str = "binary") -> dict[Pair, PairInfo]:
    return check_pairs("pairs", read_prompt_jsonl(folder / "prompt.jsonl"), mode, cache)


@pytest.mark.parametrize("mode", ["binary", "palette"])
def test_only_what_has_changed_is_opened_again(
    mode: str, tmp_path: Path, opened: list[str]
) -> None:
    folder, cache = tmp_path / "pairs", CheckCache(tmp_path / "cache/checked.json")
    if mode == "palette":
        write_palette_masks(folder)
    else:
        write_list(folder, [(32, 32), (48, 32)])
    settle(folder)
    first = check(folder, cache, mode)
    assert sorted(opened) == ["0.png", "1.png"]
    opened.clear()
    assert check(folder, cache, mode) == first
    assert opened == []
    save(folder / "images/1.png", photo(99, 48, 32))
    settle(folder / "images", hours=2)
    changed = check(folder, cache, mode)
    assert sorted(opened) == ["0.png", "1.png"]  # the time of both images is another
    opened.clear()
    assert check(folder, cache, mode) == changed
    assert opened == []
    digests = [[info.digest for info in infos.values()] for infos in (first, changed)]
    assert digests[0][0] == digests[1][0] and digests[0][1] != digests[1][1]


def test_a_bad_file_is_reported_again_and_what_is_good_is_kept(
    tmp_path: Path, opened: list[str]
) -> None:
    folder, cache = write_list(tmp_path / "pairs", [(32, 32)] * 3), CheckCache(tmp_path / "c.json")
    (folder / "images/1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    settle(folder)
    for expected in (["0.png", "1.png", "2.png"], ["1.png"]):
        opened.clear()
        with pytest.raises(DatasetError, match=r"1\.png: cannot be decoded") as error:
            check(folder, cache)
        assert len(error.value.problems) == 1
        assert sorted(opened) == expected


def test_files_that_may_still_change_unseen_are_not_taken_over(
    tmp_path: Path, opened: list[str]
) -> None:
    """The clock of a file system may stand still between two writes."""
    folder, cache = write_list(tmp_path / "pairs", [(32, 32)]), CheckCache(tmp_path / "c.json")
    for _ in range(2):
        check(folder, cache)
    assert opened == ["0.png"] * 2
    assert not cache.path.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"{", b"\xff", b'{"a": [1]}', b"null", b"[" * 100_000, b'{"a":' * 99_999],
)
def test_a_damaged_file_is_as_none(content: bytes, tmp_path: Path, opened: list[str]) -> None:
    folder, cache = write_list(tmp_path / "pairs", [(32, 32)]), CheckCache(tmp_path / "c.json")
    settle(folder)
    expected = check(folder, cache)
    cache.path.write_bytes(content)
    assert check(folder, cache) == expected
    assert opened == ["0.png"] * 2
    entry = cache.path.read_text(encoding="utf-8")
    cache.path.write_text(entry.replace('"', '"0', 2), encoding="utf-8")  # of another pair
    assert check(folder, cache) == expected
    assert opened == ["0.png"] * 3


ENTRIES = {0: (0, -32, 1e999, None, "x"), 2: (-1, 256), 3: (-0.1, 2, float("nan")), 4: ([-1], 7)}


@pytest.mark.parametrize(
    ("place", "value"), [(place, value) for place, values in ENTRIES.items() for value in values]
)
def test_an_entry_that_no_check_has_written_is_as_none(
    place: int, value: object, tmp_path: Path, opened: list[str]
) -> None:
    """Also of a version that writes something else."""
    folder, cache = write_list(tmp_path / "pairs", [(32, 32)]), CheckCache(tmp_path / "c.json")
    settle(folder)
    expected = check(folder, cache)
    [(key, entry)] = json.loads(cache.path.read_text(encoding="utf-8")).items()
    entry[place] = value
    for changed in (entry, entry[:-1], [*entry, 1]):
        cache.path.write_text(json.dumps({key: changed}), encoding="utf-8")
        assert check(folder, cache) == expected
    assert opened == ["0.png"] * 4


@pytest.mark.parametrize("how", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_as_none(how: Callable[[Path], object], tmp_path: Path) -> None:
    folder, cache = write_list(tmp_path / "pairs", [(32, 32)]), CheckCache(tmp_path / "c.json")
    settle(folder)
    how(cache.path)
    assert len(check(folder, cache)) == 1


def test_a_file_that_is_replaced_while_it_is_checked_is_noticed_at_its_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_list(tmp_path / "pairs", [(32, 32)])

    def replacing(path: Path) -> np.ndarray:
        found = read_image(path)
        save(path, photo(7, 48, 32))
        return found

    monkeypatch.setattr(pair_check, "read_image", replacing)
    [(pair, info)] = check(folder, CheckCache(tmp_path / "c.json")).items()
    with pytest.raises(ValueError, match=r"0\.png: has changed since"):
        check_unchanged(pair, info)


def test_a_run_keeps_it_beside_its_folder_without_names_and_a_dry_run_does_not(
    tmp_path: Path, opened: list[str]
) -> None:
    folder = write_list(tmp_path / "pairs", [(32, 32)])
    save(folder / "masks/0.png", lesion())
    settle(folder)
    load(folder, dry_run=True)
    cache = folder / "runs/.siamese_cache"  # of support.small_datasets.config
    assert not cache.parent.exists()
    dataset = load(folder)
    (file,) = cache.iterdir()
    assert "png" not in file.read_text(encoding="utf-8")
    opened.clear()
    assert load(folder) == dataset
    assert load(folder).fingerprint() == dataset.fingerprint()
    assert opened == []
