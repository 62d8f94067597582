"""Several images arranged in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]  # RGB, 0..255
WHITE = (255, 255, 255)


def picture_grid(
    cells: Sequence[np.ndarray], columns: int, gap: int, margin: int = 0, colour: Colour = WHITE
) -> np.ndarray:
    """Cells (h, w, 3) of one size, uint8 -> an image (H, W, 3), uint8, filled row by row.

    gap: pixels between cells; margin: pixels around all of them; colour: of what no cell covers.
    """
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    whole = [
        2 * margin - gap + count * (size + gap)
        for count, size in ((rows, height), (columns, width))
    ]
    page = np.full((*whole, 3), colour, np.uint8)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        top, left = margin + row * (height + gap), margin + column * (width + gap)
        page[top : top + height, left : left + width] = cell
    return page


def fitted(
    image: np.ndarray, size: int, method: Image.Resampling, colour: Colour = WHITE
) -> np.ndarray:
    """Image (H, W, 3), uint8, scaled to fit into (size, size, 3), centred on `colour`."""
    height, width = (max(1, round(side * size / max(image.shape[:2]))) for side in image.shape[:2])
    page = Image.new("RGB", (size, size), colour)
    scaled = Image.fromarray(image).resize((width, height), method)
    page.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return np.asarray(page)
