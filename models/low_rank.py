"""Low-rank bundles: factors beside a base model's weights, and the whole weights they stand for.

As in LoRA files a weight `NAME.weight` has `NAME.lora_down.weight` (r, inputs, ...) and
`NAME.lora_up.weight` (outputs, r, ...); with `NAME.alpha` it becomes W + alpha / r up down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from .content import is_finite
from .kinds import CONTROL, LORA_DOWN, UNET, Kind
from .weights import StateDict, WeightFile, WeightsError

DOWN, UP, ALPHA = LORA_DOWN, ".lora_up.", ".alpha"
WEIGHT = ".weight"


def expanded(weights: WeightFile, unet: Mapping[str, Tensor]) -> WeightFile:
    """The bundle of whole weights that a low-rank one stands for on this UNet; another kind as is.

    unet: the base's tensors without a prefix, whose number formats the whole weights get; they are
    added up in float32. Raises WeightsError for factors that do not fit.
    """
    if weights.kind is not Kind.LOW_RANK:
        return weights
    whole: StateDict = {}
    for key, value in weights.tensors.items():
        if f"{DOWN}weight" in key:
            name = key.removesuffix(f"{DOWN}weight")
            whole[name + WEIGHT] = _whole_weight(weights, name, unet)
        elif UP not in key and not key.endswith(ALPHA):
            whole[key] = value
    return replace(weights, kind=Kind.BUNDLE, tensors=whole)


def _whole_weight(weights: WeightFile, name: str, unet: Mapping[str, Tensor]) -> Tensor:
    """W + alpha / r up down, for a layer under its full name."""
    tensors, key = weights.tensors, name + WEIGHT
    base = unet.get(key.removeprefix(CONTROL).removeprefix(UNET))
    down, up = tensors[f"{name}{DOWN}weight"], tensors.get(f"{name}{UP}weight")
    alpha = tensors.get(name + ALPHA)
    if base is None:
        raise WeightsError(
            f"{weights.path}: {key} is changed by it, and the base model has no such weight. Give "
            "the checkpoint that it was trained on."
        )
    fits = (
        up is not None and alpha is not None and alpha.numel() == 1
        and down.ndim == up.ndim == base.ndim >= 2
        and up.shape[1] == down.shape[0] > 0 and up.shape[2:].numel() == 1
        and (up.shape[0], *down.shape[1:]) == tuple(base.shape)
    )  # fmt: skip
    if not fits or up is None or alpha is None:
        raise WeightsError(
            f"{weights.path}: the factors of {key} do not make its shape {tuple(base.shape)} in "
            "the base model. Give the checkpoint that it was trained on, or copy the file again."
        )
    rank = down.shape[0]
    product = up.float().flatten(1) @ down.float().flatten(1)
    change = product.view(base.shape) * (float(alpha) / rank)
    whole = (base.to(change.device).float() + change).to(base.dtype)
    if not is_finite(whole):
        raise WeightsError(
            f"{weights.path}: the factors of {key} make values that are not finite: the training "
            "diverged, or the file is damaged. Use an earlier step, or download it again."
        )
    return whole
