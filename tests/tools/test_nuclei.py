"""The nuclei crops that the repository holds, Otsu's measure, and what is trained on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from siamese_diffusion.tools import nuclei, nuclei_crops, otsu
from siamese_diffusion.tools.base_training import BaseData, BaseTraining, train_unet
from siamese_diffusion.tools.pairs import iou
from siamese_diffusion.tools.picture_sheet import OUTLINE, outlined


def test_otsu_finds_the_threshold_that_opencv_finds() -> None:
    rng = np.random.default_rng(0)
    for centre in (90, 140, 200):
        dark, bright = rng.normal(40, 12, 3000), rng.normal(centre, 15, 1096)
        grey = np.concatenate([dark, bright]).clip(0, 255).astype(np.uint8).reshape(64, 64)
        theirs, mask = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        assert otsu.otsu(grey.astype(float)) == pytest.approx(theirs, abs=2)
        assert iou(otsu.nuclei(grey), mask > 0) > 0.97


def test_crops_of_the_repository_are_grey_pairs_and_split_by_group() -> None:
    crops = {split: nuclei_crops.read_crops(split) for split in nuclei_crops.SPLITS}
    assert {split: len(found) for split, found in crops.items()} == {
        "train": 5051,
        "val": 722,
        "test": 1359,
    }
    groups = [{crop.group for crop in found} for found in crops.values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    everything = [crop for found in crops.values() for crop in found]
    assert len({crop.name for crop in everything}) == len(everything)
    low, high = nuclei_crops.COVERAGE
    assert all(low <= crop.mask.mean() <= high for crop in everything)
    # Image and mask belong together: what is bright is what the mask holds.
    agreement = [iou(otsu.nuclei(crop.image), crop.mask) for crop in crops["val"]]
    shifted = crops["val"][40:] + crops["val"][:40]
    others = [iou(otsu.nuclei(a.image), b.mask) for a, b in zip(crops["val"], shifted, strict=True)]
    assert np.mean(agreement) > 0.85
    assert np.mean(others) < 0.2


def test_the_repository_holds_no_more_than_four_megabytes_of_them() -> None:
    files = list(nuclei_crops.ASSETS.iterdir())
    assert sum(file.stat().st_size for file in files) < 4e6
    assert "CC0" in (nuclei_crops.ASSETS / "README.md").read_text("utf-8")


def made_tiles(folder: Path) -> None:
    """Two tiles of 128 px with a bright square in every quarter but one; the last has colour."""
    lines = ["name,split,modality,group"]
    for number, split in enumerate(nuclei_crops.SPLITS):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        mask = np.zeros((128, 128), np.uint8)
        for y, x in ((10, 10), (10, 74), (74, 10)):
            mask[y : y + 30, x : x + 30] = 255
        image = (mask // 4 + 10 + number).astype(np.uint8)
        Image.fromarray(image).save(folder / split / "images" / f"t{number}.png")
        Image.fromarray(mask).save(folder / split / "masks" / f"t{number}.png")
        lines.append(f"t{number},{split},fluorescence,g{number}")
    lines.append("stained,train,histology,h")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")


def test_packing_and_unpacking_keeps_crops_and_stretches_their_contrast(tmp_path: Path) -> None:
    made_tiles(tmp_path / "tiles")
    assets = tmp_path / "assets"
    nuclei_crops.pack(tmp_path / "tiles", assets)
    crops = nuclei_crops.read_crops("train", assets)
    assert [crop.name for crop in crops] == ["t0_r0c0", "t0_r0c1", "t0_r1c0"]  # one is empty
    assert {(crop.tile, crop.group) for crop in crops} == {("t0", "g0")}
    for crop in crops:
        assert crop.mask[10:40, 10:40].all()
        assert crop.mask.sum() == 900
        assert crop.image[crop.mask].mean() > 240
        assert crop.image[~crop.mask].mean() < 15
    index = nuclei_crops.unpack(tmp_path / "out", assets)["val"]
    entry = json.loads(index.read_text("utf-8").splitlines()[0])
    assert entry["group"] == "g1"
    image = np.asarray(Image.open(index.parent / entry["target"]))
    assert np.array_equal(image, nuclei_crops.read_crops("val", assets)[0].image)


def test_a_mosaic_that_does_not_fit_its_index_is_an_error_of_one_message(tmp_path: Path) -> None:
    made_tiles(tmp_path / "tiles")
    nuclei_crops.pack(tmp_path / "tiles", tmp_path)
    Image.new("L", (64, 64)).save(tmp_path / "train_images.webp", lossless=True)
    with pytest.raises(ValueError, match=r"train_images.webp: is \(64, 64\)"):
        nuclei_crops.read_crops("train", tmp_path)


def test_masks_to_sample_come_from_as_many_groups_as_there_are() -> None:
    crops = nuclei_crops.read_crops("test")
    few = nuclei.one_from_each_group(crops, 34)
    assert len({crop.group for crop in few}) == 34
    many = nuclei.one_from_each_group(crops, 50)
    assert many[:34] == few
    assert len({crop.name for crop in many}) == 50
    assert nuclei.one_from_each_group(crops, 50) == many


def test_fewer_tiles_are_a_part_of_more_and_the_seed_decides_which() -> None:
    image, mask = np.zeros((64, 64), np.uint8), np.eye(64, dtype=bool)
    crops = [nuclei_crops.Crop(f"t{n // 3}_r0c{n % 3}", "g", image, mask) for n in range(90)]
    ten, twenty, other = (
        {crop.name for crop in nuclei_crops.of_tiles(crops, count, seed)}
        for count, seed in ((10, 1), (20, 1), (10, 2))
    )
    assert (len(ten), len(twenty)) == (30, 60)
    assert ten < twenty
    assert ten != other
    assert nuclei_crops.of_tiles(crops, 0, 1) == crops


def test_training_command_is_one_that_the_trainer_takes(tmp_path: Path) -> None:
    from siamese_diffusion.training.command_line import parse_args

    settings = replace(nuclei.Settings(), recipe="mask_only", bf16=False, seed=3)
    command = nuclei.training_command(settings, tmp_path / "b", tmp_path / "p", tmp_path / "r")
    config = parse_args(command[2:])
    assert (config.recipe, config.seed, config.mixed_precision) == ("mask_only", 3, "no")
    assert config.flip_aug


def test_outline_is_drawn_inside_the_mask_and_nowhere_else() -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    drawn = (outlined(np.zeros((16, 16), np.uint8), mask) == OUTLINE).all(axis=2)
    assert drawn.sum() == 4 * 16 - 4
    assert not (drawn & ~mask.repeat(2, 0).repeat(2, 1)).any()


class Scale(torch.nn.Module):
    """A network with one weight, called as a UNet is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, noisy: torch.Tensor, _times: torch.Tensor, text: torch.Tensor) -> object:
        return type("Output", (), {"sample": noisy * self.weight + 0 * text.sum()})()


def test_a_base_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data = BaseData(torch.randn(6, 4, 2, 2), torch.randn(2, 3, 5), torch.ones(6, dtype=torch.long))
    settings = BaseTraining(steps=8, batch=2, warmup=2, save_every=3)
    whole, state = Scale(), tmp_path / "whole"
    train_unet(whole, data, settings, state)
    first, second = Scale(), Scale()
    kept = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train_unet(StopsAfter(first, 5), data, settings, kept)
    assert kept.is_file()
    train_unet(Wrapped(second), data, settings, kept)
    assert second.weight.item() == whole.weight.item() != 0.3
    with pytest.raises(ValueError, match="other settings"):
        train_unet(Wrapped(Scale()), data, replace(settings, batch=3), kept)


class Wrapped(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *arguments: torch.Tensor) -> object:
        return self.inner(*arguments)


class StopsAfter(Wrapped):
    """As Ctrl-C in the middle of a run."""

    def __init__(self, inner: torch.nn.Module, calls: int) -> None:
        super().__init__(inner)
        self.left = calls

    def forward(self, *arguments: torch.Tensor) -> object:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(*arguments)
