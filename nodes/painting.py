"""Lesions painted into images that have none: their backgrounds stay as they are."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.utils
import torch
from torch import Tensor
from torch.nn import functional

from ..models.edges import soft_edge
from .conditioning import apply_mask
from .sampling import Callback, Known, Settings, Sources, empty_latents, sample


def paint(
    sources: Sources,
    vae: Any,
    background: Tensor,
    edge: int,
    mask: Tensor,
    size: tuple[int, int],
    settings: Settings,
    callback: Callback | None = None,
) -> Tensor:
    """Background (1, H, W, 3) with a lesion where the mask (1, h, w) is, stretched to it.

    size: (width, height) in pixels at which the lesion is sampled, 0 for the mask's. `edge` pixels
    around the lesion blend into the background; beyond them nothing changes, not by a bit.
    Raises ValueError when mask, size or ControlNet do not fit together.
    """
    height, width = background.shape[1:3]
    stretched = functional.interpolate(mask[:, None], (height, width), mode="nearest-exact")
    blend = soft_edge(stretched, edge)
    empty = empty_latents(mask, *size)
    small = resized(background, (empty.shape[-1] * 8, empty.shape[-2] * 8))
    latents = vae.encode(small)
    positive, negative = apply_mask(sources.positive, sources.negative, sources.control_net, mask)
    noise = comfy.sample.prepare_noise(latents, settings.seed)
    sampled = sample(
        sources.model, noise, positive, negative, settings, callback, Known(latents, blend)
    )
    painted = resized(vae.decode(sampled), (width, height)).to(background)
    return torch.lerp(background, painted, blend.movedim(1, -1))


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Image (B, H, W, 3) stretched to (width, height), as ComfyUI's 'Upscale Image' does."""
    channels_first = image.movedim(-1, 1)
    return comfy.utils.common_upscale(channels_first, *size, "bilinear", "disabled").movedim(1, -1)
