"""Lesions painted into images that have none; beyond a soft edge these stay, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..common.backgrounds import Backgrounds
from ..common.mask_files import stretched
from ..common.pictures import pixel_count
from ..common.pixel_budget import BUDGET
from ..models.edges import soft_edge

PIXELS_AT_WORK = 4  # for each of a background: as an image, a mask, and where they blend


@dataclass(frozen=True)
class Canvas:
    """What a lesion is painted into, and where.

    image: (H, W, 3), uint8. mask: (H, W), bool. blend: (1, 1, H, W) in [0, 1], 1 on the lesion and
    0 where the image stays as it is; in float16, as several large photographs may wait.
    """

    image: np.ndarray
    mask: np.ndarray
    blend: Tensor

    @classmethod
    def of(cls, mask: np.ndarray, backgrounds: Backgrounds, seed: int) -> Canvas:
        """For the image with that seed; mask (h, w) of any size. Raises ValueError."""
        with BUDGET.take(PIXELS_AT_WORK * pixel_count(backgrounds.path_for(seed))):
            image = backgrounds.pixels_for(seed)
            mask = stretched(mask, (image.shape[1], image.shape[0]))
            blend = soft_edge(torch.from_numpy(mask).float()[None, None], backgrounds.edge)
            return cls(image, mask, blend.half())


def images_at(canvases: Sequence[Canvas], height: int, width: int) -> Tensor:
    """Their images, stretched: (B, 3, height, width) in [0, 1]."""
    return torch.cat([_resized(_as_tensor(each), height, width) for each in canvases])


def blends_at(canvases: Sequence[Canvas], height: int, width: int) -> Tensor:
    """Where latents of that size are sampled: (B, 1, height, width) in [0, 1]."""
    return torch.cat([_resized(each.blend.float(), height, width) for each in canvases])


def painted(image: Tensor, canvas: Canvas) -> Tensor:
    """A sampled image (3, h, w) in [0, 1], stretched to the canvas and blended in: (3, H, W)."""
    background = _as_tensor(canvas).to(image)
    sampled = _resized(image[None], *background.shape[-2:])
    return torch.lerp(background, sampled, canvas.blend.to(image))[0]


def _as_tensor(canvas: Canvas) -> Tensor:
    return rearrange(torch.tensor(canvas.image), "h w c -> 1 c h w").float() / 255


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """As ComfyUI's nodes stretch images and noise masks."""
    return functional.interpolate(image, (height, width), mode="bilinear")
