"""Dermoscopy: the lesion segmentation tasks of the ISIC challenges of 2016 and 2018."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .archive import match, named, not_found, pictures
from .items import Found, Item

# The authors published no caption for skin; this one is made after theirs for polyps.
CAPTION = "A photo of a skin lesion."
WHERE = (
    "Get the training, validation and test data of {task}, images and ground truth, from "
    "https://challenge.isic-archive.com/data/, unpack them, and give the folder that holds the "
    "unpacked folders."
)

# Images, masks, and how many of them, as published.
Split = tuple[str, str, int]

SPLITS_2016: Mapping[str, Split] = {
    "train": ("ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth", 900),
    "test": ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth", 379),
}
SPLITS_2018: Mapping[str, Split] = {
    "train": ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", 2594),
    "val": ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth", 100),
    "test": ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth", 1000),
}


def read_isic2016(root: Path) -> Found:
    """ISIC 2016, task 1: 900 pairs to train on, 379 to test; no validation set was published."""
    return _read(root, "ISIC 2016, task 1", SPLITS_2016)


def read_isic2018(root: Path) -> Found:
    """ISIC 2018, task 1: 2594 pairs to train on, 100 to validate, 1000 to test."""
    return _read(root, "ISIC 2018, task 1", SPLITS_2018)


def _read(root: Path, task: str, splits: Mapping[str, Split]) -> Found:
    names = [name for images, masks, _ in splits.values() for name in (images, masks)]
    # "Extract all" makes a folder of the archive's name, which holds the archive's own.
    folders = {name: folder for name in names for folder in named(root, name) if pictures(folder)}
    missing = [f"{name}/ with its pictures" for name in names if name not in folders]
    if missing:
        raise not_found(task, root, missing, WHERE.format(task=task))
    found = Found()
    for split, (images, masks, expected) in splits.items():
        # "_Segmentation" in 2016, "_segmentation" in 2018.
        pairs = match(found, folders[images], folders[masks], expected, ending="_segmentation")
        found.items += [Item(stem, i, (mask,), CAPTION, stem, split) for stem, i, mask in pairs]
    found.notes.append("ISIC names no patients: each image counts as a group of its own.")
    return found
