"""ComfyUI's masks and images -> hints for the Dense Hint Input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional

from ..common.text import shortened
from ..models.kinds import HINT_CHANNELS

# The published code reads masks back with `> 127` of 255.
THRESHOLD = 0.5
IMAGE_CHANNELS = 3  # of hints with 4 or 6 channels, the first ones
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def mask_batch(mask: Tensor) -> Tensor:
    """[H, W], [B, H, W] or [B, 1, H, W] -> (B, H, W).

    Raises ValueError for any other shape or type, or values that are not finite.
    """
    _check_type(mask, "mask", "a MASK", (*FLOATS, torch.bool))
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or 0 in mask.shape:
        raise ValueError(
            f"The mask has shape {list(mask.shape)}; expected [height, width] or "
            "[batch, height, width]. Connect a MASK output, such as that of 'Load Image (as Mask)'."
        )
    check_finite(mask, "The mask")
    return mask


def _check_type(
    value: object, what: str, source: str, dtypes: Sequence[torch.dtype] = FLOATS
) -> None:
    """Raise ValueError for what is no plain tensor of such values: some nodes let anything through.

    Whole numbers may count to 1 or to 255: they are not guessed at.
    """
    if not isinstance(value, Tensor):
        found = shortened(type(value).__name__)
        raise ValueError(f"The {what} is {found}; connect {source} output.")
    if value.dtype not in dtypes or value.layout is not torch.strided or value.is_meta:
        kind = "without" if value.is_meta else f"{value.layout} with"
        raise ValueError(
            f"The {what} is a tensor {kind} {value.dtype} values; expected floating point ones "
            f"from 0 to 1. Connect {source} output."
        )


def check_finite(values: Tensor, what: str) -> None:
    """Raise ValueError for NaN or infinity, which would be drawn as black without a word."""
    if not torch.isfinite(values).all():
        raise ValueError(
            f"{what} holds values that are not finite (NaN or infinity). Where a model made it: "
            "start ComfyUI with --fp32-vae, or use other weights or settings."
        )


def binary_mask(mask: Tensor, threshold: float = THRESHOLD, invert: bool = False) -> Tensor:
    """Masks in [0, 1] -> (B, H, W) of ones where above `threshold`, else zeros; or the inverse."""
    return ((mask_batch(mask) > threshold) != invert).float()


def mask_hint(
    mask: Tensor, channels: int, threshold: float = THRESHOLD, invert: bool = False
) -> Tensor:
    """Masks in [0, 1] -> hint (B, channels, H, W) of zeros and ones for the mask branch.

    3 channels: the mask in each. 4 or 6, for recipes that train on [image, mask]: zeros in the
    image's 3, the mask in the others. Raises ValueError for any other number or mask shape.
    """
    binary = binary_mask(mask, threshold, invert)
    hint = repeat(binary, "b h w -> b c h w", c=_mask_channels(channels))
    return _after_no_image(hint, channels)


def palette_hint(palette: Tensor, channels: int) -> Tensor:
    """Palette masks (B, H, W, 3) in [0, 1] -> hint (B, channels, H, W) with their colours.

    Raises ValueError for weights that take only one mask channel.
    """
    if _mask_channels(channels) != 3:
        raise ValueError(
            "These weights were trained on binary masks, not on palette masks: connect 'mask' "
            "instead of 'palette'."
        )
    return _after_no_image(image_batch(palette, "palette"), channels)


def image_hint(image: Tensor, hint: Tensor) -> Tensor:
    """Images (B, H, W, 3) in [0, 1] -> hint of the image branch, channels as in `hint`.

    `hint` is that of the mask branch; where the weights take image and mask, its mask is stretched
    to the image by nearest neighbour. Raises ValueError unless there is one image for all masks,
    one mask for all images, or as many of both.
    """
    images = image_batch(image)
    channels = hint.shape[1]
    if channels == IMAGE_CHANNELS:
        return images
    if len(images) != len(hint) and 1 not in (len(images), len(hint)):
        raise ValueError(
            f"{len(images)} images for {len(hint)} masks: give one image for all masks, or one for "
            "each."
        )
    masks = functional.interpolate(
        hint[:, IMAGE_CHANNELS:], images.shape[-2:], mode="nearest-exact"
    )
    count = max(len(images), len(hint))
    parts = [part.expand(count, -1, -1, -1) for part in (images, masks.to(images))]
    return torch.cat(parts, dim=1)


def image_batch(image: Tensor, what: str = "image", finite: bool = True) -> Tensor:
    """ComfyUI IMAGE (B, H, W, 3 or 4) -> (B, 3, H, W) without alpha.

    Raises ValueError for any other shape or type, or, with `finite`, values that are not finite.
    """
    _check_type(image, what, "an IMAGE")
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or 0 in image.shape:
        raise ValueError(
            f"The {what} has shape {list(image.shape)}; expected [batch, height, width, 3]. "
            "Connect an IMAGE output, such as that of 'Load Image'."
        )
    if finite:
        check_finite(image, f"The {what}")
    return image.detach()[..., :3].movedim(-1, 1)


def _mask_channels(channels: int) -> int:
    """How many of a hint's channels the mask has. Raises ValueError for unknown hints."""
    if channels not in HINT_CHANNELS:
        raise ValueError(f"These weights take hints of {channels} channels, not {HINT_CHANNELS}.")
    return channels if channels == IMAGE_CHANNELS else channels - IMAGE_CHANNELS


def _after_no_image(mask: Tensor, channels: int) -> Tensor:
    """(B, M, H, W) -> (B, channels, H, W): zeros where the image branch has the image."""
    return functional.pad(mask, (0, 0, 0, 0, channels - mask.shape[1], 0))
