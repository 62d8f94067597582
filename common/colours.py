"""The colours of palette masks as numbers and as text."""

from __future__ import annotations

import numpy as np


def packed(mask: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3), uint8, as (H, W), 0xRRGGBB."""
    values = mask[..., 0].astype(np.int32)
    for channel in (1, 2):  # one at a time: of large masks there is no room for more
        values <<= 8
        values |= mask[..., channel]
    return values


def hex_colour(colour: int) -> str:
    return f"#{colour:06x}"
