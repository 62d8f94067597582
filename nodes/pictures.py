"""Pairs to look at: masks drawn on images, contact sheets, and a lesion's contrast."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..common.picture_grid import fitted, picture_grid
from ..models.edges import dilated
from .hints import binary_mask, image_batch

COLOURS = {
    "green": (0.1, 1.0, 0.2),
    "yellow": (1.0, 0.9, 0.1),
    "cyan": (0.1, 0.9, 1.0),
    "red": (1.0, 0.15, 0.1),
    "white": (1.0, 1.0, 1.0),
}
GAP = 8  # pixels between the cells of a sheet
BACKGROUND = (38, 38, 38)  # dark grey, of 255
RING = 0.05  # of the shorter side: how far around the lesion its surroundings go

Pair = tuple[Tensor, Tensor]  # image (1, 3, H, W) in [0, 1], mask (1, 1, H, W) of zeros and ones


def pairs_of(images: Sequence[Tensor], masks: Sequence[Tensor], finite: bool = True) -> list[Pair]:
    """ComfyUI's IMAGEs and MASKs, batches of any size -> pairs, each mask as large as its image.

    A single mask is used for all images. Raises ValueError for other counts that differ, and, with
    `finite`, for images that are not finite.
    """
    single = [one for image in images for one in image_batch(image, finite=finite).split(1)]
    binary = [one[:, None] for mask in masks for one in binary_mask(mask).split(1)]
    if len(binary) not in (1, len(single)):
        raise ValueError(
            f"{len(binary)} masks for {len(single)} images: give one mask for all images, or one "
            "for each."
        )
    binary = binary * len(single) if len(binary) == 1 else binary
    return [
        (image, functional.interpolate(mask.to(image), image.shape[-2:], mode="nearest-exact"))
        for image, mask in zip(single, binary, strict=True)
    ]


def overlay(pair: Pair, colour: str, outline: int, tint: float) -> Tensor:
    """Image (1, H, W, 3) with the mask tinted and outlined, `outline` pixels wide, outside it."""
    image, mask = pair
    paint = torch.tensor(COLOURS[colour]).to(image).view(1, 3, 1, 1)
    image = torch.lerp(image, paint.expand_as(image), tint * mask)
    edge = dilated(mask, outline) - mask
    return torch.lerp(image, paint.expand_as(image), edge).movedim(1, -1)


def contrast(pair: Pair) -> float | None:
    """Mean absolute difference, 0..1, between mean colours of the lesion and a ring around it.

    NaN when the image is not finite, None when the mask is empty or full.
    """
    image, mask = pair
    if not torch.isfinite(image).all():
        return math.nan
    ring = dilated(mask, max(1, round(RING * min(mask.shape[-2:])))) - mask
    if not mask.any() or not ring.any():
        return None
    lesion, around = (
        (image * part).sum((-2, -1)) / part.sum((-2, -1)) for part in (mask, ring)
    )  # (1, 3) each
    return float((lesion - around).abs().mean())


def sheet(cells: Sequence[np.ndarray], columns: int) -> Tensor:
    """Cells (h, w, 3) of one size, uint8 -> ComfyUI IMAGE (1, H, W, 3), filled row by row."""
    page = picture_grid(cells, columns, GAP, GAP, BACKGROUND)
    return torch.from_numpy(page)[None] / 255


def cell(image: Tensor, size: int) -> np.ndarray:
    """Image (1, 3, H, W) -> (size, size, 3), uint8, scaled to fit."""
    shown = rearrange(image, "1 c h w -> h w c")
    return fitted(to_pixels(shown), size, Image.Resampling.BILINEAR, BACKGROUND)


def side_by_side(pair: Pair, size: int) -> np.ndarray:
    """Mask and image in one cell (size, 2 size, 3), uint8."""
    image, mask = pair
    shown = repeat(mask, "1 1 h w -> h w c", c=3)
    left = fitted(to_pixels(shown), size, Image.Resampling.NEAREST, BACKGROUND)
    return np.hstack([left, cell(image, size)])


def to_pixels(image: Tensor) -> np.ndarray:
    """(H, W) or (H, W, C) in [0, 1] -> the same in 0..255, uint8."""
    return image.float().cpu().mul(255).round().clamp(0, 255).numpy().astype(np.uint8)
