"""Masks as ComfyUI gives them -> hints as the Dense Hint Input takes them."""

from __future__ import annotations

import torch
from torch import Tensor

# The published code reads masks back with `> 127` of 255.
THRESHOLD = 0.5
HINT_CHANNELS = (3, 4, 6)


def mask_batch(mask: Tensor) -> Tensor:
    """[H, W], [B, H, W] or [B, 1, H, W] -> (B, H, W). Raises ValueError for any other shape."""
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or 0 in mask.shape:
        raise ValueError(
            f"The mask has shape {list(mask.shape)}; expected [height, width] or "
            "[batch, height, width]. Connect a MASK output, such as that of 'Load Image (as Mask)'."
        )
    return mask


def mask_hint(mask: Tensor, channels: int) -> Tensor:
    """Masks in [0, 1] -> hint (B, channels, H, W) of zeros and ones for the mask branch.

    3 channels: the mask in each. 4 or 6, of recipes that train on [image, mask]: zeros for the
    image's 3, the mask in the rest. Raises ValueError for any other number or mask shape.
    """
    binary = (mask_batch(mask) > THRESHOLD).float()[:, None]  # (B, 1, H, W)
    if channels not in HINT_CHANNELS:
        raise ValueError(f"These weights take hints of {channels} channels, not {HINT_CHANNELS}.")
    image_channels = 0 if channels == 3 else 3
    no_image = torch.zeros_like(binary).expand(-1, image_channels, -1, -1)
    return torch.cat([no_image, binary.expand(-1, channels - image_channels, -1, -1)], dim=1)
