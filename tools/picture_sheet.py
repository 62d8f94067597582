"""Contact sheets: pictures that belong together side by side, many groups on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .pairs import Bools, Bytes

CELL, GAP, HEAD = 96, 4, 16  # pixels
OUTLINE = (60, 255, 60)


def contact_sheet(pictures: Mapping[str, Sequence[np.ndarray]], across: int = 4) -> Image.Image:
    """`across` groups in a row; a group has one picture of each title, in the mapping's order.

    Pictures are masks (H, W), grey (H, W) or coloured (H, W, 3), all sequences of one length.
    """
    groups = list(zip(*pictures.values(), strict=True))
    width = len(pictures) * (CELL + GAP) + 2 * GAP
    rows = -(-len(groups) // across)
    sheet = Image.new("RGB", (across * width, HEAD + rows * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(min(across, len(groups))):
        for position, title in enumerate(pictures):
            draw.text((column * width + position * (CELL + GAP), 2), title, fill="black")
    for index, group in enumerate(groups):
        row, column = divmod(index, across)
        for position, picture in enumerate(group):
            large = (
                Image.fromarray(picture)
                .convert("RGB")
                .resize((CELL, CELL), Image.Resampling.NEAREST)
            )
            sheet.paste(
                large, (column * width + position * (CELL + GAP), HEAD + row * (CELL + GAP))
            )
    return sheet


def outlined(image: Bytes, mask: Bools) -> Bytes:
    """The image (H, W) or (H, W, 3), twice as large, with the mask's outline drawn on it."""
    large = np.asarray(Image.fromarray(image).convert("RGB")).repeat(2, 0).repeat(2, 1).copy()
    inside = mask.repeat(2, 0).repeat(2, 1)
    eroded = inside.copy()
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        eroded &= np.roll(inside, shift, axis)
    large[inside & ~eroded] = OUTLINE
    return large
