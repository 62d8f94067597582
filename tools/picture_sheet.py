"""Contact sheets: images that belong together side by side, many groups on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ..common.picture_grid import fitted, picture_grid

CELL, GAP, HEAD = 96, 4, 16  # pixels


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
