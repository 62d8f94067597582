"""The masks of a folder, and a mask as the weights that it is for were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .colours import hex_colour, packed
from .natural_order import natural
from .pictures import PICTURE_SUFFIXES, Size, read_mask, read_palette_mask
from .text import one_line, printable, same_name, shown
from .visible_files import visible_files

COLOURS_SHOWN = 5


def picture_files(folder: Path, subfolders: bool) -> dict[str, Path]:
    """Image files by relative path without extension, in natural order, without hidden ones.

    Raises ValueError when two have the same name, also where only some file systems take it for
    one, when one has no text as its name, when a folder cannot be read, or when there are none.
    """
    found: dict[str, Path] = {}
    names: dict[str, Path] = {}
    for path in sorted(visible_files(folder, _unreadable, subfolders), key=natural):
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if printable(stem) != stem:
            raise ValueError(f"{folder}: the name {shown(path.name)} is not UTF-8 text. Rename it.")
        first = names.setdefault(same_name(stem), path)
        if first != path:
            raise ValueError(
                f"{folder}: {first.name} and {path.name} have the same name, or one that Windows "
                "or a Mac takes for the same; keep or rename one of them."
            )
        found[stem] = path
    if not found:
        kinds = ", ".join(sorted(PICTURE_SUFFIXES))
        raise ValueError(f"{folder}: no images ({kinds}).")
    return found


def _unreadable(error: OSError) -> None:
    name = one_line(str(error.filename))
    raise ValueError(f"{name}: cannot be read ({error.strerror}). Check it and its permissions.")


def read_mask_of(classes: Mapping[str, str], path: Path) -> np.ndarray:
    """A mask (H, W), bool, or, for weights trained on palette masks, (H, W, 3), uint8.

    classes: those in the weights' metadata, "#rrggbb" of palette masks. Raises ValueError with the
    file's name, also for a colour that the weights have not seen.
    """
    if not is_palette(classes):
        return read_mask(path)
    mask = read_palette_mask(path)
    found = [hex_colour(colour) for colour in np.unique(packed(mask)).tolist()]
    unknown = [colour for colour in found if colour not in classes]
    if unknown:
        more = ", ..." if len(unknown) > COLOURS_SHOWN else ""
        raise ValueError(
            f"{path}: has colours that these weights were not trained on: "
            f"{', '.join(unknown[:COLOURS_SHOWN])}{more}; expected {', '.join(classes)}. Save it "
            "with the training masks' palette, without smoothed edges"
        )
    return mask


def is_palette(classes: Mapping[str, str]) -> bool:
    """Whether masks with these classes have a colour per class, instead of black and white."""
    return any(value.startswith("#") for value in classes)


def stretched(mask: np.ndarray, size: Size) -> np.ndarray:
    """The mask at (width, height) by nearest neighbour, pixels taken at their centres."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in ((size[1], mask.shape[0]), (size[0], mask.shape[1]))
    )
    return mask[rows[:, None], columns]
