"""Real image-mask pairs that travel with the repository: crops of fluorescent cell nuclei.

    python -m siamese_diffusion.tools.nuclei_crops OUT              # unpack tools/assets/nuclei
    python -m siamese_diffusion.tools.nuclei_crops --pack TILES     # how it was made from the tiles

7,132 crops of 64x64 pixels fit into 3.6 MB because they lie side by side in one WebP picture a
split. Groups are fields of view; a group is never in two splits.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from ..common.prompt_jsonl import Entry, write_prompt_jsonl
from .pairs import Bools, Bytes

ASSETS = Path(__file__).parent / "assets" / "nuclei"
SPLITS = ("train", "val", "test")
PROMPT = "a microscopy image of cell nuclei, fluorescence"
SIZE = 64  # pixels, at the resolution of the microscope
COLUMNS = 64  # crops side by side in a mosaic
QUALITY = 85  # of WebP: a third of the bytes of lossless, and Otsu's threshold sees the same
COVERAGE = (0.04, 0.6)  # share of a crop that its nuclei cover
PERCENTILES = (1, 99.5)  # of a tile's grey values, stretched to 0..255


@dataclass(frozen=True)
class Crop:
    """A crop's name TILE_rROWcCOLUMN, the group of its tile, its picture and mask (64, 64)."""

    name: str
    group: str
    image: Bytes
    mask: Bools

    @property
    def tile(self) -> str:
        return self.name.rsplit("_", 1)[0]


# Reading what the repository holds


def read_crops(split: str, assets: Path = ASSETS) -> list[Crop]:
    """The crops of "train", "val" or "test", those of a tile one after the other.

    Raises FileNotFoundError for a missing file, ValueError where mosaic and index do not fit.
    """
    with (assets / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    names = [
        (f"{row['tile']}_{cell}", row["group"]) for row in rows for cell in row["crops"].split()
    ]
    images = _cut(assets / f"{split}_images.webp", len(names))
    masks = _cut(assets / f"{split}_masks.png", len(names))
    return [
        Crop(name, group, image, mask > 127)
        for (name, group), image, mask in zip(names, images, masks, strict=True)
    ]


def _cut(path: Path, count: int) -> list[Bytes]:
    mosaic = np.asarray(Image.open(path, formats=("WEBP", "PNG")).convert("L"))
    rows = -(-count // COLUMNS)
    expected = (rows * SIZE, COLUMNS * SIZE)
    if mosaic.shape != expected:
        raise ValueError(f"{path}: is {mosaic.shape}, but index.csv has {count} crops: {expected}.")
    return [*rearrange(mosaic, "(row h) (column w) -> (row column) h w", h=SIZE, w=SIZE)[:count]]


def write_crops(folder: Path, crops: Sequence[Crop]) -> Path:
    """Write images/, masks/ and prompt.jsonl with a `group` key; returns the prompt.jsonl."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    entries = []
    for crop in crops:
        target, source = f"images/{crop.name}.png", f"masks/{crop.name}.png"
        Image.fromarray(crop.image).save(folder / target)
        Image.fromarray(crop.mask.astype(np.uint8) * 255).save(folder / source)
        entries.append(Entry(source, target, PROMPT, crop.group))
    index = folder / "prompt.jsonl"
    write_prompt_jsonl(index, entries)
    return index


def unpack(out: Path, assets: Path = ASSETS) -> dict[str, Path]:
    """Write every split to a folder of its own; returns their prompt.jsonl by split."""
    return {split: write_crops(out / split, read_crops(split, assets)) for split in SPLITS}


def of_tiles(crops: Sequence[Crop], count: int, seed: int) -> list[Crop]:
    """The crops of `count` tiles drawn by the seed, of all for 0; fewer are a part of more."""
    names = sorted({crop.tile for crop in crops})
    order = np.random.default_rng(seed).permutation(len(names))
    taken = {names[index] for index in order[: count or None]}
    return [crop for crop in crops if crop.tile in taken]


def middle(crops: Sequence[Crop], size: int) -> list[Crop]:
    """The middle size x size pixels of each, of those that have nuclei there."""
    edge = (SIZE - size) // 2
    part = np.s_[edge : edge + size, edge : edge + size]
    cut = [replace(crop, image=crop.image[part], mask=crop.mask[part]) for crop in crops]
    return [crop for crop in cut if crop.mask.mean() >= COVERAGE[0]]


# Making it


def pack(tiles: Path, assets: Path = ASSETS) -> None:
    """Write the mosaics and index.csv from 256x256 tiles.

    `tiles` holds SPLIT/images/NAME.png, SPLIT/masks/NAME.png, and manifest.csv with the columns
    name, split, modality and group.
    """
    with (tiles / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["modality"] == "fluorescence"]
    assets.mkdir(parents=True, exist_ok=True)
    index = []
    for split in SPLITS:
        chosen = sorted((r for r in rows if r["split"] == split), key=lambda row: row["name"])
        crops = []
        for row in chosen:
            cut = list(_cut_tile(tiles / split, row))
            cells = " ".join(crop.name.rsplit("_", 1)[1] for crop in cut)
            index.append((split, row["name"], row["group"], cells))
            crops += cut
        images = _mosaic([crop.image for crop in crops])
        images.save(assets / f"{split}_images.webp", quality=QUALITY, method=6)
        masks = _mosaic([crop.mask.astype(np.uint8) * 255 for crop in crops])
        masks.convert("1").save(assets / f"{split}_masks.png", optimize=True)
        print(f"{split}: {len(crops)} crops of {len(chosen)} tiles")
    with (assets / "index.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("split", "tile", "group", "crops"), *index]
        )


def _cut_tile(folder: Path, row: dict[str, str]) -> Iterator[Crop]:
    """The crops of a tile, side by side, that hold enough and not too much of nuclei."""
    name = f"{row['name']}.png"
    grey = np.asarray(Image.open(folder / "images" / name, formats=("PNG",)).convert("L"))
    mask = np.asarray(Image.open(folder / "masks" / name, formats=("PNG",)).convert("L")) > 127
    stretched = stretch(grey)
    for y in range(0, grey.shape[0] - SIZE + 1, SIZE):
        for x in range(0, grey.shape[1] - SIZE + 1, SIZE):
            part = np.s_[y : y + SIZE, x : x + SIZE]
            if COVERAGE[0] <= mask[part].mean() <= COVERAGE[1]:
                crop_name = f"{row['name']}_r{y // SIZE}c{x // SIZE}"
                yield Crop(crop_name, row["group"], stretched[part], mask[part])


def stretch(grey: Bytes) -> Bytes:
    """Spread a tile's grey values over 0..255."""
    low, high = np.percentile(grey, PERCENTILES)
    share = np.clip((grey - low) / max(high - low, 1), 0, 1)
    return (share * 255).round().astype(np.uint8)


def _mosaic(cells: Sequence[Bytes]) -> Image.Image:
    rows = -(-len(cells) // COLUMNS)
    filled = np.zeros((rows * COLUMNS, SIZE, SIZE), np.uint8)
    filled[: len(cells)] = cells
    grid = rearrange(filled, "(row column) h w -> (row h) (column w)", column=COLUMNS)
    return Image.fromarray(np.ascontiguousarray(grid))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m siamese_diffusion.tools.nuclei_crops",
        description="Write the nuclei crops of the repository as train, val and test pairs.",
    )
    parser.add_argument("out", type=Path, nargs="?", help="folder to write to")
    parser.add_argument("--pack", type=Path, metavar="TILES", help="make tools/assets/nuclei again")
    given = parser.parse_args(argv)
    if (given.out is None) == (given.pack is None):
        parser.error("give a folder to write to, or --pack TILES.")
    try:
        if given.pack is not None:
            pack(given.pack)
            return 0
        for split, index in unpack(given.out).items():
            print(f"{split}: {index}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
