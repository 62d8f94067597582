"""New masks: augmented ones, and random ones with lesion-like shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from ..common.blobs import Blob, place_inside

ATTEMPTS = 20  # to keep some of a lesion in the image
HARMONICS = 5  # of a random outline: more make it rougher


@dataclass(frozen=True)
class Changes:
    """How much a mask may change.

    flip: left to right, half of the time. rotation: up to so many degrees in either direction.
    scale: 0.2 is a factor of 0.8 to 1.2. elastic: strength of the deformation, 0 to 1.
    """

    flip: bool
    rotation: float
    scale: float
    elastic: float


def augment(mask: Tensor, changes: Changes, generator: Generator) -> Tensor:
    """Mask (H, W) of zeros and ones -> a randomly changed one.

    Raises ValueError when every attempt moves the whole lesion out of the image.
    """
    for _ in range(ATTEMPTS):
        changed = _augment_once(mask[None, None], changes, generator)[0, 0]
        if changed.any() or not mask.any():
            return changed
    raise ValueError(
        f"{ATTEMPTS} attempts moved the lesion out of the image: it lies at the edge. Lower "
        "rotation, scale or elastic."
    )


def _augment_once(mask: Tensor, changes: Changes, generator: Generator) -> Tensor:
    """(1, 1, H, W) -> the same shape, zeros and ones.

    Each change interpolates, and the threshold comes last: outlines stay as smooth as they were,
    where taking the nearest pixel twice would leave steps that no image follows. A lesion that the
    image's border cuts goes on behind it, and is not cut off within the image.
    """
    # Imported here and below, so that the other nodes work where kornia is missing.
    from kornia.geometry.transform import get_rotation_matrix2d, warp_affine

    flip, rotation, zoom = torch.rand(3, generator=generator).tolist()
    # Drawn whether it is used or not, so that one setting does not change what another does.
    noise = torch.rand((1, 2, *mask.shape[-2:]), generator=generator) * 2 - 1
    if changes.flip and flip < 0.5:
        mask = mask.flip(-1)
    height, width = mask.shape[-2:]
    centre = torch.tensor([[(width - 1) / 2, (height - 1) / 2]])
    angle = torch.tensor([(2 * rotation - 1) * changes.rotation])
    factor = torch.full((1, 2), 1 + (2 * zoom - 1) * changes.scale)
    matrix = get_rotation_matrix2d(centre, angle, factor)
    mask = warp_affine(mask, matrix, (height, width), mode="bilinear", padding_mode="border")
    return (_bend(mask, noise, changes.elastic) > 0.5).to(mask.dtype)


def _bend(mask: Tensor, noise: Tensor, amount: float) -> Tensor:
    """Elastic deformation: noise (1, 2, H, W), smoothed, moves each pixel."""
    if amount == 0:
        return mask
    from kornia.geometry.transform import elastic_transform2d

    sigma = min(mask.shape[-2:]) / 12
    kernel = 2 * math.ceil(2 * sigma) + 1
    # Smoothing leaves about 1 / (2 sigma sqrt(pi)) of the noise: back to a share of the image.
    alpha = amount * 0.06 * 2 * sigma * math.sqrt(math.pi) * math.sqrt(3)
    return elastic_transform2d(
        mask, noise, (kernel, kernel), (sigma, sigma), (alpha, alpha), padding_mode="border"
    )


def random_mask(
    width: int, height: int, lesions: int, area: tuple[float, float], generator: Generator
) -> Tensor:
    """(height, width) of zeros and ones: `lesions` blobs, each with a share of the image's area.

    The share is drawn uniformly from `area`. Blobs may overlap. They do not touch the border,
    unless one is wider or higher than the image.
    """
    mask = np.zeros((height, width), bool)
    for _ in range(lesions):
        low, high = area
        share = low + (high - low) * float(torch.rand((), generator=generator))
        blob, place = _random_blob(share * width * height, generator)
        mask |= place_inside(blob, width, height, place)
    return torch.from_numpy(mask).float()


def _random_blob(pixels: float, generator: Generator) -> tuple[Blob, tuple[float, float]]:
    """A random blob of that area, and its random place (x, y) in [0, 1]."""
    sizes, phases, others = torch.rand((3, HARMONICS), generator=generator).tolist()
    waves = [
        (number, 0.35 * size / number, 2 * math.pi * phase)
        for number, (size, phase) in enumerate(zip(sizes, phases, strict=True), start=2)
    ]
    x, y, longer, rotation, _ = others
    return Blob(pixels, waves, 1 + 0.6 * longer, 2 * math.pi * rotation), (x, y)
