"""Small pictures in data addresses, with the outline of their mask."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

SIDE = 128
OUTLINE = (255, 225, 25)


def thumbnail(image: np.ndarray, mask: np.ndarray | None = None) -> str:
    """PNG of an image (H, W, 3), uint8; the border of the mask (H, W) inside it drawn in yellow."""
    size = (SIDE, SIDE)
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)).copy()
    if mask is not None:
        large = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        pixels[large & ~_inner(large)] = OUTLINE
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _inner(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask whose four neighbours are in it too."""
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & mask
