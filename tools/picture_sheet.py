"""Contact sheets: images that belong together side by side, many groups on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ..common.picture_grid import fitted, picture_grid
from .pairs import Bools, Bytes

CELL, GAP, HEAD = 96, 4, 16  # pixels
OUTLINE = (60, 255, 60)


def contact_sheet(pictures: Mapping[str, Sequence[np.ndarray]], across: int = 4) -> Image.Image:
    """`across` groups in a row; a group has one image of each title, in the mapping's order.

    Images are masks (H, W), grey (H, W) or coloured (H, W, 3), all sequences of one length.
    """
    groups = [
        picture_grid([_cell(image) for image in images], len(pictures), GAP)
        for images in zip(*pictures.values(), strict=True)
    ]
    page = Image.fromarray(picture_grid(groups, across, 3 * GAP))
    sheet = ImageOps.expand(page, (0, HEAD, 0, 0), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(min(across, len(groups))):
        left = column * (groups[0].shape[1] + 3 * GAP)
        for position, title in enumerate(pictures):
            draw.text((left + position * (CELL + GAP), 2), title, fill="black")
    return sheet


def _cell(image: np.ndarray) -> np.ndarray:
    """(CELL, CELL, 3), uint8."""
    colours = np.asarray(Image.fromarray(image).convert("RGB"))
    return fitted(colours, CELL, Image.Resampling.NEAREST)


def outlined(image: Bytes, mask: Bools) -> Bytes:
    """The image (H, W) or (H, W, 3), twice as large, with the mask's outline drawn on it."""
    large = np.asarray(Image.fromarray(image).convert("RGB")).repeat(2, 0).repeat(2, 1).copy()
    inside = mask.repeat(2, 0).repeat(2, 1)
    eroded = inside.copy()
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        eroded &= np.roll(inside, shift, axis)
    large[inside & ~eroded] = OUTLINE
    return large
