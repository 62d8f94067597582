"""The datasets that can be prepared, by the name given at the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .bbbc038 import read_bbbc038
from .isic import read_isic2016, read_isic2018
from .items import Found, Item, PrepareError, report
from .polyps import read_cvc_clinicdb, read_kvasir_seg, read_polyps
from .splits import SEEN, assign_splits
from .two_folders import read_two_folders
from .write import check_out, write_dataset

# Dermoscopic photos have up to 30 megapixels: as PNG about ten times what training at 384 px needs.
LARGEST_SHORT_SIDE = 1024
NO_VALIDATION = (
    "No validation split was published, and none is made. siamese-evaluate holds out a part of "
    "train/ by itself; for a validation loss give the trainer --validation_split 0.1. Both take "
    "whole groups."
)


@dataclass(frozen=True)
class Dataset:
    """about: for --help. read: finds the pairs of an unpacked archive, and raises PrepareError for
    a folder that is not this dataset. short_side: in pixels; larger pictures are reduced to it."""

    about: str
    read: Callable[[Path], Found]
    short_side: int | None = None


DATASETS: Mapping[str, Dataset] = {
    "polyps": Dataset("PraNet's training and test sets, the paper's Polyps", read_polyps),
    "kvasir-seg": Dataset("Kvasir-SEG, 1000 polyps", read_kvasir_seg),
    "cvc-clinicdb": Dataset("CVC-ClinicDB, 612 frames of 29 videos", read_cvc_clinicdb),
    "isic2016": Dataset("ISIC 2016, task 1: skin lesions", read_isic2016, LARGEST_SHORT_SIDE),
    "isic2018": Dataset("ISIC 2018, task 1: skin lesions", read_isic2018, LARGEST_SHORT_SIDE),
    "bbbc038": Dataset("BBBC038 (DSB2018): 864 tiles of cell nuclei", read_bbbc038),
    "folders": Dataset("your own pairs, in images/ and masks/", read_two_folders),
}


@dataclass(frozen=True)
class Prepared:
    """The items as written, each with its split, and what the owner should know."""

    items: list[Item]
    notes: list[str]


def prepare(name: str, folder: Path, out: Path) -> Prepared:
    """Write the dataset `name`, unpacked in `folder`, to `out`. Raises PrepareError or OSError."""
    dataset = DATASETS[name]
    check_out(out, name)
    place = Path(os.path.realpath(out))
    if Path(os.path.realpath(folder)) in (place, *place.parents):
        raise PrepareError(f"{out}: lies in {folder}, which is read; give a folder outside it")
    found = dataset.read(folder)
    if found.problems:
        raise PrepareError(f"{folder}: nothing was written.{report(found.problems)}")
    items = assign_splits(found.items)
    notes = found.notes + write_dataset(place, name, items, dataset.short_side)
    seen = sum(str(item.split).endswith(SEEN) for item in items)
    if seen:
        notes.append(
            f"{seen} pairs that were published for validation or test share their group or image "
            f"with training; they are in folders whose names end in {SEEN}."
        )
    if not any(item.split == "val" for item in items):
        notes.append(NO_VALIDATION)
    return Prepared(items, notes)
