"""Adds masks and images to conditionings, as hints of a Siamese ControlNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from einops import rearrange
from torch import Tensor

import nodes as host_nodes  # ComfyUI's own, not this package

from .control import SiameseControl
from .hints import IMAGE_CHANNELS, image_hint, mask_hint

Conditioning = list[Any]


@dataclass(frozen=True)
class Timing:
    """How strong a hint is, and for which part of sampling: 0 is the first step, 1 the last."""

    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0


def apply_mask(
    positive: Conditioning, negative: Conditioning, control_net: Any, mask: Tensor, **timing: float
) -> tuple[Conditioning, Conditioning]:
    """Add the mask to both conditionings; ControlNets that are already in them are kept.

    Raises ValueError for a ControlNet that is not Siamese or a tensor that is not a mask.
    """
    hint = mask_hint(mask, siamese(control_net).hint_channels)
    return apply_hint((positive, negative), control_net, hint, Timing(**timing))


def siamese(control_net: Any) -> SiameseControl:
    """Return the ControlNet, or raise ValueError when it is not a Siamese one."""
    if not isinstance(control_net, SiameseControl):
        raise ValueError(
            "The connected ControlNet is not a Siamese one: it takes images, not masks. Connect "
            "CONTROL_NET of 'Siamese Bundle Loader' or 'Siamese Checkpoint Loader', or use "
            "ComfyUI's 'Apply ControlNet' node for this one."
        )
    return control_net


def apply_hint(
    pair: tuple[Conditioning, Conditioning], control: SiameseControl, hint: Tensor, timing: Timing
) -> tuple[Conditioning, Conditioning]:
    """Add a hint (B, C, H, W) in [0, 1] to positive and negative conditioning."""
    as_image = rearrange(hint, "b c h w -> b h w c")
    return host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        *pair, control, as_image, timing.strength, timing.start_percent, timing.end_percent
    )


def apply_both(
    pair: tuple[Conditioning, Conditioning],
    control: SiameseControl,
    hint: Tensor,
    image: Tensor,
    weight: float,
    timing: Timing,
) -> tuple[Conditioning, Conditioning]:
    """Add the control of training's image branch: c_m + w c_i, or c_m + w (c_i - c_m).

    The weights' recipe decides between the two. hint: of the mask branch; image: (B, H, W, 3) in
    [0, 1]. Raises ValueError when the weights have no image branch.
    """
    recipe = control.recipe
    if not recipe.has_image_branch:
        raise ValueError(
            "These weights were trained without an image branch (recipe mask_only): disconnect "
            "'image'."
        )
    kept = 1.0 if recipe.joint_control == "add" else 1.0 - weight
    image_branch = control.copy()
    image_branch.image_channels = IMAGE_CHANNELS
    # Chained controls add up.
    for branch, given, share in (
        (control, hint, kept),
        (image_branch, image_hint(image, hint), weight),
    ):
        shared = Timing(timing.strength * share, timing.start_percent, timing.end_percent)
        pair = apply_hint(pair, branch, given, shared)
    return pair
