"""Masks, photographs, noise and metadata for tests of the Siamese ControlNet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SIZE = 32  # pixels; latents of 4x4
ROUNDING = 1e-5

Sample = Callable[..., Tensor]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masks(count: int, height: int = SIZE, width: int = SIZE) -> Tensor:
    """(count, height, width): white rectangles, each of another size."""
    batch = torch.zeros(count, height, width)
    for i in range(count):
        batch[i, : height // (i + 2), : width // 2] = 1
    return batch


def photos(count: int, height: int = SIZE, width: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(count, height, width, 3, generator=generator)


def metadata(recipe: str) -> dict[str, str]:
    return {
        "siamese.format_version": "1",
        "siamese.recipe": recipe,
        "siamese.resolution": "64x64",
        "siamese.step": "3",
        "siamese.base_hash": "0" * 64,
        "siamese.mask_classes": "{}",
    }
