"""siamese-prepare: public datasets, as they unpack, become pairs that training reads."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from siamese_diffusion.common.pairs import Pair
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.training.prepare import bbbc038, write
from siamese_diffusion.training.prepare.items import Item
from siamese_diffusion.training.prepare.registry import DATASETS
from siamese_diffusion.training.prepare_data import main
from support.dataset_archives import BUILDERS, TILES, cvc_clinicdb, folders, lesion, save
from support.full_disk import at_most
from support.paths import ROOT
from support.processes import run

pytestmark = pytest.mark.slow  # archives of the published size

Archive = Callable[[str], Path]


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """The unpacked archive of a dataset, made by the first test that asks; never changed."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = BUILDERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture(autouse=True)
def four_tiles(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's list of tiles, for the sources that the tests make."""
    path = tmp_path_factory.mktemp("tiles") / "tiles.csv"
    path.write_text(TILES, encoding="utf-8")
    monkeypatch.setattr(bbbc038, "TILES", path)


def splits(out: Path) -> dict[str, list[Pair]]:
    """The pairs of each split, read as training reads them."""
    read = {path.parent.name: read_prompt_jsonl(path) for path in out.glob("*/prompt.jsonl")}
    assert not any(listing.problems for listing in read.values())
    return {split: listing.pairs for split, listing in read.items()}


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(capsys: pytest.CaptureFixture[str], name: str, folder: Path, out: Path) -> str:
    """The one message of a command that must fail, and leave nothing behind."""
    before = sorted(out.parent.iterdir())
    assert main([name, str(folder), str(out)]) == 2
    assert sorted(out.parent.iterdir()) == before
    message = capsys.readouterr().err
    assert message.count("error:") == 1 and "Traceback" not in message
    return message


# Every dataset, end to end


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("polyps", {"train": 1450, "test": 736, "test_seen": 62}),
        ("kvasir-seg", {"train": 800, "val": 100, "test": 100}),
        ("isic2016", {"train": 900, "test": 379}),
        ("isic2018", {"train": 2594, "val": 100, "test": 1000}),
        ("bbbc038", {"train": 1, "val": 1, "test": 2}),
        ("folders", {"train": 16, "val": 2, "test": 2}),
    ],
)
def test_a_dataset_becomes_pairs_that_training_reads(
    name: str,
    counts: dict[str, int],
    archive: Archive,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([name, str(archive(name)), str(tmp_path / "out")]) == 0
    found = splits(tmp_path / "out")
    assert {split: len(pairs) for split, pairs in found.items()} == counts
    assert ("No validation split" in capsys.readouterr().out) == ("val" not in counts)
    for pairs in found.values():
        assert all(pair.caption and pair.group for pair in pairs)
        for pair in pairs[:3]:
            image, mask = Image.open(pair.image), Image.open(pair.mask)
            assert (image.mode, mask.mode, image.size) == ("RGB", "L", mask.size)
            assert set(np.unique(np.asarray(mask))) == {0, 255}
            assert pair.image.name == pair.mask.name
            assert pair.image.parent.name == "images" and pair.mask.parent.name == "masks"
        files = {path.name for path in pairs[0].image.parent.iterdir()}
        assert files == {pair.image.name for pair in pairs}


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_frames_of_a_cvc_clinicdb_video_stay_together(kind: str, tmp_path: Path) -> None:
    assert (
        main(["cvc-clinicdb", str(cvc_clinicdb(tmp_path / "in", kind)), str(tmp_path / "o")]) == 0
    )
    found = splits(tmp_path / "o")
    group = {pair.stem: pair.group for pairs in found.values() for pair in pairs}
    assert len(group) == 612 and len(set(group.values())) == 29
    # The table of the dataset's page: 1-25, 26-50, 51-67, ..., 572-591, 592-612.
    assert group["001"] == group["025"] == "sequence_01"
    assert group["026"] == group["050"] == "sequence_02"
    assert group["051"] == group["067"] == "sequence_03"
    assert group["591"] == "sequence_28"
    assert group["592"] == group["612"] == "sequence_29"
    assert Counter(group.values())["sequence_10"] == 6
    for split in ("val", "test"):
        assert 48 <= len(found[split]) <= 74  # a tenth of 612, give or take half a sequence
    _check_groups_never_cross(found)


def _check_groups_never_cross(found: dict[str, list[Pair]]) -> None:
    groups = [{pair.group for pair in found[split]} for split in ("train", "val", "test")]
    assert all(groups)
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_jpeg_masks_become_black_and_white(archive: Archive, tmp_path: Path) -> None:
    source = archive("kvasir-seg") / "Kvasir-SEG/masks/cju0007.jpg"
    assert len(np.unique(np.asarray(Image.open(source)))) > 2, "this mask needs no threshold"
    assert main(["kvasir-seg", str(archive("kvasir-seg")), str(tmp_path / "out")]) == 0
    (written,) = (tmp_path / "out").glob("*/masks/cju0007.png")
    np.testing.assert_array_equal(np.asarray(Image.open(written)), lesion(7))


def test_test_frames_of_videos_in_training_are_kept_apart(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["polyps", str(archive("polyps")), str(tmp_path / "out")]) == 0
    found = splits(tmp_path / "out")
    trained = {pair.group for pair in found["train"]}
    assert not trained & {pair.group for pair in found["test"]}
    assert {pair.group for pair in found["test_seen"]} <= trained
    assert all(pair.stem.startswith("CVC-ClinicDB_") for pair in found["test_seen"])
    sets = Counter(pair.stem.split("_")[0] for pair in found["test"])
    assert sets == {"CVC-300": 60, "CVC-ColonDB": 380, "ETIS-LaribPolypDB": 196, "Kvasir": 100}
    assert "62 pairs that were published for validation or test share" in capsys.readouterr().out


def test_the_same_image_in_training_and_test_is_kept_apart(tmp_path: Path) -> None:
    folder = BUILDERS["isic2016"](tmp_path / "in")
    train = next(folder.rglob("ISIC_0000003.jpg"))
    next(folder.rglob("ISIC_0000901.jpg")).write_bytes(train.read_bytes())
    assert main(["isic2016", str(folder), str(tmp_path / "out")]) == 0
    found = splits(tmp_path / "out")
    assert [pair.stem for pair in found["test_seen"]] == ["ISIC_0000901"]
    assert found["test_seen"][0].group == "ISIC_0000003"
    assert len(found["test"]) == 378


def test_large_photos_are_reduced(tmp_path: Path) -> None:
    folder = BUILDERS["isic2016"](tmp_path / "in")
    wide = Image.new("RGB", (1600, 1200), (200, 20, 60))
    wide.paste((0, 200, 0), (800, 0, 1600, 1200))
    save(next(folder.rglob("ISIC_0000003.jpg")), wide)
    mask = np.zeros((1200, 1600), np.uint8)
    mask[:, 800:] = 255
    save(next(folder.rglob("ISIC_0000003_Segmentation.png")), mask)
    assert main(["isic2016", str(folder), str(tmp_path / "out")]) == 0
    image = np.asarray(Image.open(tmp_path / "out/train/images/ISIC_0000003.png"))
    small = np.asarray(Image.open(tmp_path / "out/train/masks/ISIC_0000003.png"))
    assert image.shape[:2] == small.shape == (1024, 1365)
    green = image[..., 1] > 100
    assert (green == (small == 255)).mean() > 0.998, "image and mask no longer match"
    assert set(np.unique(small)) == {0, 255}


def test_a_nuclei_tile_is_a_crop_of_the_union_of_its_nuclei(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = archive("bbbc038")
    assert main(["bbbc038", str(folder / "stage1_train"), str(tmp_path / "out")]) == 0
    assert "4 of 4 tiles are not the study's" in capsys.readouterr().out
    found = splits(tmp_path / "out")
    by_name = {pair.stem: pair for pairs in found.values() for pair in pairs}
    expected = np.zeros((256, 256), np.uint8)
    expected[10:60, 10:60] = expected[50:80, 50:90] = 255
    np.testing.assert_array_equal(np.asarray(Image.open(by_name["aaaaaaaa_0"].mask)), expected)
    pair = by_name["cccccccc_1"]  # x 260, y 10
    expected[:] = 0
    expected[20:80, 140:240] = 255
    np.testing.assert_array_equal(np.asarray(Image.open(pair.mask)), expected)
    source = Image.open(folder / "stage1_train/cccccccc00/images/cccccccc00.png").convert("RGB")
    np.testing.assert_array_equal(
        np.asarray(Image.open(pair.image)), np.asarray(source)[10:266, 260:516]
    )
    assert (pair.caption, pair.group) == (
        "a microscopy image of cell nuclei, brightfield",
        "cccccccc",
    )


def test_tiles_with_the_studys_pixels_are_not_noted(
    archive: Archive,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bbbc038", str(archive("bbbc038")), str(tmp_path / "out")]) == 0
    rows = list(csv.DictReader(TILES.splitlines()))
    for row in rows:
        name = f"{row['split']}/{{}}/{row['source']}_{row['index']}.png"
        image, mask = (Image.open(tmp_path / "out" / name.format(p)) for p in ("images", "masks"))
        pixels = image.convert("RGB").tobytes() + mask.tobytes()
        row["digest"] = hashlib.sha256(pixels).hexdigest()[:8]
    with bbbc038.TILES.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()
    assert main(["bbbc038", str(archive("bbbc038")), str(tmp_path / "out")]) == 0
    assert "not the study's" not in capsys.readouterr().out


def test_the_studys_list_of_tiles_is_whole() -> None:
    """Against the counts and rules that came with the tiles."""
    path = ROOT / "training/prepare/bbbc038_tiles.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["split"] for row in rows) == {"train": 607, "val": 98, "test": 159}
    assert Counter((row["split"], row["modality"]) for row in rows) == {
        **{
            ("train", "fluorescence"): 503,
            ("train", "histology"): 64,
            ("train", "brightfield"): 40,
        },
        **{("val", "fluorescence"): 80, ("val", "histology"): 10, ("val", "brightfield"): 8},
        **{("test", "fluorescence"): 134, ("test", "histology"): 17, ("test", "brightfield"): 8},
    }
    sources = Counter({row["source"]: row["split"] for row in rows}.values())
    assert sources == {"train": 392, "val": 63, "test": 99}
    split = {row["group"]: row["split"] for row in rows}
    assert all(split[row["group"]] == row["split"] for row in rows), "a group is in two splits"
    places = {(row["source"], row["x"], row["y"]) for row in rows}
    assert len(places) == len({(row["source"], row["index"]) for row in rows}) == 864


# Two folders


def test_groups_are_read_from_a_table_or_from_subfolders(tmp_path: Path) -> None:
    folder = folders(tmp_path / "in", 60)
    lines = [f"p{number},patient {number // 6}" for number in range(60)]
    (folder / "groups.csv").write_text("name,group\n" + "\n".join(lines), encoding="utf-8")
    assert main(["folders", str(folder), str(tmp_path / "table")]) == 0
    by_table = splits(tmp_path / "table")
    _check_groups_never_cross(by_table)
    assert {pair.group for pairs in by_table.values() for pair in pairs} == {
        f"patient {number}" for number in range(10)
    }
    (folder / "groups.csv").unlink()
    for number in range(60):
        for side, ends in (("images", (".png", ".txt")), ("masks", (".png",))):
            for end in ends:
                target = folder / side / f"case{number // 6}" / f"p{number}{end}"
                target.parent.mkdir(exist_ok=True)
                (folder / side / f"p{number}{end}").rename(target)
    assert main(["folders", str(folder), str(tmp_path / "subfolders")]) == 0
    by_folder = splits(tmp_path / "subfolders")
    _check_groups_never_cross(by_folder)
    assert "case9_p59" in {pair.stem for pairs in by_folder.values() for pair in pairs}
    captions = {pair.caption for pairs in by_folder.values() for pair in pairs}
    assert captions == {f"caption {number}" for number in range(60)}


def test_without_groups_the_owner_is_told_what_that_means(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folders", str(archive("folders")), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "each image counts as a group of its own" in printed and "groups.csv" in printed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,patient\np1,a\n", "line 2 has no name or no group"),
        ("name,group\np1,a\np1,b\n", "line 3: p1 has two groups"),
        ("name,group\np1,a\nq,b\n", "no image of this name: q"),
        ('name,group\np1,"a\np2,b\n', "unexpected end of data"),
        (f"name,group\n{'n' * 100_000},a\n", "no image of this name: nnn"),
    ],
)
def test_a_wrong_table_of_groups_is_refused(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders(tmp_path / "in")
    (folder / "groups.csv").write_text(text, encoding="utf-8")
    message = refused(capsys, "folders", folder, tmp_path / "out")
    assert expected in message and "groups.csv" in message and len(message) < 1000


def test_two_groups_cannot_be_split_in_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "folders", folders(tmp_path / "in", 2), tmp_path / "out")
    assert "2 pairs in 2 groups" in message


def test_one_of_several_folders_of_pairs_is_never_taken_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path / "in/train"), folders(tmp_path / "in/test", 5)
    message = refused(capsys, "folders", tmp_path / "in", tmp_path / "out")
    assert "2 folders in it hold images and masks" in message
    assert str(tmp_path / "in/test") in message and str(tmp_path / "in/train") in message


# Folders that are not the dataset, or not all of it


@pytest.mark.parametrize("name", DATASETS)
def test_a_wrong_folder_says_what_is_missing_and_where_to_get_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "download.zip").write_bytes(b"")
    (wrong / "notes").mkdir()
    message = refused(capsys, name, wrong, tmp_path / "out")
    assert "missing: " in message and "found: download.zip, notes/" in message
    assert "still packed: download.zip" in message
    assert name == "folders" or "https://" in message
    message = refused(capsys, name, tmp_path / "nowhere", tmp_path / "out")
    assert "nowhere: no such folder" in message


def test_an_incomplete_archive_is_one_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = BUILDERS["isic2016"](tmp_path / "in")
    next(folder.rglob("ISIC_0000010.jpg")).unlink()
    next(folder.rglob("ISIC_0000900_Segmentation.png")).unlink()
    message = refused(capsys, "isic2016", folder, tmp_path / "out")
    assert "Training_Data: 899 pictures, the published archive has 900" in message
    assert "ISIC_0000010_Segmentation.png: no such name in" in message
    assert "Test_GroundTruth: 378 pictures, the published archive has 379" in message
    assert "ISIC_0000900.jpg: no such name in" in message


def test_a_missing_part_of_a_challenge_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = BUILDERS["isic2016"](tmp_path / "in")
    (folder / "ISBI2016_ISIC_Part1_Test_GroundTruth").rename(tmp_path / "elsewhere")
    message = refused(capsys, "isic2016", folder, tmp_path / "out")
    assert "missing: ISBI2016_ISIC_Part1_Test_GroundTruth/" in message
    assert message.count("missing:") == 1


def test_missing_sources_of_nuclei_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = BUILDERS["bbbc038"](tmp_path / "in")
    (folder / "stage1_train/bbbbbbbb00").rename(tmp_path / "elsewhere")
    for mask in (folder / "stage1_train/cccccccc00/masks").iterdir():
        mask.unlink()
    message = refused(capsys, "bbbc038", folder, tmp_path / "out")
    assert "1 of the 3 sources are missing, such as bbbbbbbb" in message
    assert "cccccccc00/masks: no masks" in message


def test_all_bad_files_are_in_one_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders(tmp_path / "in")
    (folder / "images/p3.png").write_bytes(b"no picture")
    save(folder / "masks/p4.png", lesion(4, (40, 40)))
    save(folder / "masks/p5.png", lesion(5) // 255)
    message = refused(capsys, "folders", folder, tmp_path / "out")
    assert "3 files are wrong; nothing was written" in message
    assert "p3.png: cannot be decoded" in message
    assert "p4.png: is 40x40, its image" in message
    assert "p5.png: the mask's brightest value is 1 of 255" in message


# Writing


def test_twice_the_same(archive: Archive, tmp_path: Path) -> None:
    for out in ("a", "b", "b"):  # the second "b" replaces the first
        assert main(["folders", str(archive("folders")), str(tmp_path / out)]) == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert len(tree(tmp_path / "a")) == 2 * 20 + 3 + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_split_depends_on_names_alone(tmp_path: Path) -> None:
    """A group that is added moves no other from test to training, save at the border."""
    for count in (100, 101):
        folder = folders(tmp_path / f"in{count}", count)
        assert main(["folders", str(folder), str(tmp_path / f"out{count}")]) == 0
    tests = [{p.stem for p in splits(tmp_path / f"out{n}")["test"]} for n in (100, 101)]
    assert len(tests[0] - tests[1]) <= 1


def test_another_dataset_is_never_overwritten(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["folders", str(archive("folders")), str(out)]) == 0
    before = tree(out)
    capsys.readouterr()
    message = refused(capsys, "bbbc038", archive("bbbc038"), out)
    assert "holds the dataset 'folders'" in message
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    message = refused(capsys, "folders", archive("folders"), out)
    assert "notes.txt, which would be deleted" in message
    (out / "notes.txt").unlink()
    assert tree(out) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("", encoding="utf-8")
    assert "is not empty" in refused(capsys, "folders", archive("folders"), other)


def test_the_output_may_not_lie_in_the_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders(tmp_path / "in")
    assert "give a folder outside it" in refused(capsys, "folders", folder, folder / "out")


def test_an_interrupted_command_leaves_nothing(
    archive: Archive,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = write.make_pair

    def interrupted(item: Item, short_side: int | None) -> tuple[np.ndarray, np.ndarray]:
        if item.name == "p7":
            raise KeyboardInterrupt
        return real(item, short_side)

    monkeypatch.setattr(write, "make_pair", interrupted)
    assert main(["folders", str(archive("folders")), str(tmp_path / "out")]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("link", ["pipe", "loop", "deleted"])
def test_an_image_that_cannot_be_opened_is_named(
    link: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe is not waited for."""
    folder = folders(tmp_path / "in")
    image = folder / "images/p1.png"
    image.unlink()
    if link == "pipe":
        os.mkfifo(image)
    else:
        image.symlink_to({"loop": image.name, "deleted": "nowhere"}[link])
    message = refused(capsys, "folders", folder, tmp_path / "out")
    assert f"{image}: " in message and "nothing was written" in message


def test_a_link_to_a_folder_of_pictures_is_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders(tmp_path / "in")
    for side in ("images", "masks"):
        (folder / side / "more").symlink_to(folders(tmp_path / "more") / side)
    message = refused(capsys, "folders", folder, tmp_path / "out")
    for side in ("images", "masks"):
        assert f"{folder / side / 'more'}: cannot be read (a link to a folder" in message


def test_a_name_made_of_many_folders_is_refused_where_it_is_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders(tmp_path / "in")
    for side in ("images", "masks"):
        target = folder / side / "/".join("abc"[n] * 90 for n in range(3)) / "p1.png"
        target.parent.mkdir(parents=True)
        (folder / side / "p1.png").rename(target)
    message = refused(capsys, "folders", folder, tmp_path / "out")
    assert "a name of 275 bytes" in message and "Rename" in message


def test_the_working_folder_and_a_link_are_filled(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "target"):
        (tmp_path / name).mkdir()
    (link := tmp_path / "link").symlink_to("target")
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", link):
        assert main(["folders", str(archive("folders")), str(out)]) == 0
    assert tree(tmp_path / "here") == tree(tmp_path / "target")
    assert link.is_symlink() and len(tree(tmp_path / "here")) == 44


def test_what_another_process_has_written_meanwhile_is_not_replaced(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real, mine = write.make_pair, tmp_path / "out/mine"

    def beside(item: Item, short_side: int | None) -> tuple[np.ndarray, np.ndarray]:
        mine.parent.mkdir(exist_ok=True)
        mine.touch()
        return real(item, short_side)

    monkeypatch.setattr(write, "make_pair", beside)
    assert main(["folders", str(archive("folders")), str(tmp_path / "out")]) == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err
    assert [*mine.parent.iterdir()] == [mine] and [*tmp_path.iterdir()] == [mine.parent]


def test_a_full_disk_names_the_file_and_leaves_nothing(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = archive("folders")
    with at_most(40):
        assert main(["folders", str(folder), str(tmp_path / "out")]) == 1
    [line] = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert ".png: File too large. Make room" in line
    assert not [*tmp_path.iterdir()]


def test_it_runs_by_its_path_and_needs_no_torch(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')", encoding="utf-8")
    command = [sys.executable, str(ROOT / "training/prepare_data.py"), "folders"]
    done = run([*command, archive("folders"), tmp_path / "out"], env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "20 of 20 pairs" in done.stderr, "no progress was shown"
    assert f"{tmp_path / 'out/train/prompt.jsonl'}: 16 pairs, 16 groups" in done.stdout
    record = json.loads((tmp_path / "out/dataset.json").read_text("utf-8"))
    assert record["dataset"] == "folders"
    assert record["splits"]["train"] == {"pairs": 16, "groups": 16}
