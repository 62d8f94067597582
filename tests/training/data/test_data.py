"""Datasets as people have them: what is read, and what is refused in one report."""

from __future__ import annotations

from pathlib import Path

import pytest
from siamese_diffusion.training.errors import ConfigError
from support.small_datasets import (
    lesion,
    load,
    photo,
    problems,
    save,
    two_folders,
    write_list,
)

# What --train_data and its companions point at


@pytest.mark.parametrize("name", ["prompt.jsonl", "prompt.json"])
def test_a_prompt_list_is_relative_to_its_file(tmp_path: Path, name: str) -> None:
    folder = write_list(tmp_path / "Pölypen (neu)", [(32, 32)] * 2)
    (folder / "prompt.jsonl").rename(folder / name)
    dataset = load(folder, train_data=Path(f" {folder / name} "))
    assert [pair.image for pair in dataset.pairs] == [
        folder / "images/0.png",
        folder / "images/1.png",
    ]
    assert [pair.caption for pair in dataset.pairs] == ["a polyp 0", "a polyp 1"]
    assert dataset.notes == ()


def test_two_folders_are_paired_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "two folders"
    masks = {"scan10.jpg": "scan10_mask.png", "scan2.png": "scan2.tif"}
    masks |= {"Fäll 1/x.TIF": "Fäll 1/x_segmentation.bmp"}
    for image, mask in masks.items():
        save(folder / "images" / image, photo())
        save(folder / "masks" / mask, lesion())
    (folder / "images/scan2.txt").write_text(" a polyp,\nsmall\n", encoding="utf-8-sig")
    (folder / "images/Fäll 1/x.caption").write_text("a cyst", encoding="utf-8")
    (folder / "images/.DS_Store").write_bytes(b"")
    (folder / "images/table.csv").write_bytes(b"")

    dataset = load(folder, **two_folders(folder))
    found = {str(p.image.relative_to(folder / "images")): p for p in dataset.pairs}
    assert list(found) == ["Fäll 1/x.TIF", "scan2.png", "scan10.jpg"]
    assert {name: str(p.mask.relative_to(folder / "masks")) for name, p in found.items()} == masks
    assert [pair.caption for pair in dataset.pairs] == ["a cyst", "a polyp, small", ""]
    csv, caption = dataset.notes
    assert csv.endswith("left out: 1 .csv")
    assert "1 of 3 images have no .txt or .caption" in caption and "scan10.jpg" in caption


def test_images_and_masks_may_share_a_folder(tmp_path: Path) -> None:
    for name in ("benign (1)", "benign (2)"):
        save(tmp_path / f"{name}.png", photo())
        save(tmp_path / f"{name}_mask.png", lesion())
    dataset = load(tmp_path, train_data_dir=tmp_path, conditioning_data_dir=tmp_path)
    assert [p.mask.name for p in dataset.pairs] == ["benign (1)_mask.png", "benign (2)_mask.png"]


def test_a_mask_folder_inside_the_image_folder(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photo())
    save(tmp_path / "masks/a.png", lesion())
    masks = tmp_path / "masks"
    dataset = load(tmp_path, train_data_dir=tmp_path, conditioning_data_dir=masks)
    assert [(p.image, p.mask) for p in dataset.pairs] == [(tmp_path / "a.png", masks / "a.png")]


def test_everything_wrong_with_two_folders_is_in_one_report(tmp_path: Path) -> None:
    for name in ("good", "small mask", "no mask", "twice", "bad caption", "broken"):
        save(tmp_path / f"images/{name}.png", photo())
        save(tmp_path / f"masks/{name}.png", lesion())
    save(tmp_path / "images/twice.bmp", photo())
    save(tmp_path / "masks/small mask.png", lesion(16, 32))
    (tmp_path / "masks/no mask.png").rename(tmp_path / "masks/no image.png")
    (tmp_path / "images/bad caption.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "images/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = problems(tmp_path, **two_folders(tmp_path))
    assert "6 problems" in report
    for line in (
        "images/twice.png: has the name of twice.bmp",
        "images/no mask.png: no mask of this name",
        "masks/no image.png: no image of this name",
        "images/bad caption.txt: not UTF-8",
        "small mask.png is 16x32, its image",
        "images/broken.png: cannot be decoded",
    ):
        assert line in report


def test_the_data_is_given_in_one_way(tmp_path: Path) -> None:
    folders = two_folders(tmp_path)
    one_folder = {"train_data": None, "train_data_dir": tmp_path}
    for flags in (
        {"train_data": None},
        one_folder,
        {**folders, "train_data": tmp_path / "a.jsonl"},
        {"train_data": tmp_path / "a.jsonl", "dataset_config": tmp_path / "a.toml"},
    ):
        with pytest.raises(ConfigError, match="Give the pairs in one way"):
            load(tmp_path, **flags)
    assert "give it as --train_data_dir" in problems(tmp_path, train_data=tmp_path)
    assert "no such file" in problems(tmp_path)
    (tmp_path / "a.toml").touch()
    assert "give it as --dataset_config" in problems(tmp_path, train_data=tmp_path / "a.toml")
    report = problems(tmp_path, **folders)
    assert report.count("no such folder") == 2
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    assert "no images" in problems(tmp_path, **folders)
