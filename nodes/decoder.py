"""The trained UNet decoder on top of a base MODEL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models.fit import check_control
from ..models.kinds import DECODER, UNET
from ..models.weights import StateDict, WeightFile, WeightsError, check_keys, without_prefix

HOST_UNET = "diffusion_model."


def with_decoder(model: Any, weights: WeightFile, strength: float = 1.0) -> Any:
    """A clone of ComfyUI's MODEL with the file's decoder; the original is not changed.

    With strength 1 the weights are those of the merged checkpoint, bit for bit; with 0 those of the
    base; in between, their weighted mean. LoRAs may be applied before or after. With a file without
    a decoder, the base's decoder is kept.
    Raises WeightsError when the file was made for another architecture.
    """
    check_fits(weights, unet_tensors(model))
    clone = model.clone()
    decoder = without_prefix(weights.decoder(), UNET)
    if strength == 1.0:
        # "set" puts the weight itself in place; adding its difference to the base would round.
        patches: Any = {HOST_UNET + key: ("set", (value,)) for key, value in decoder.items()}
        clone.add_patches(patches)
    else:
        patches = {HOST_UNET + key: (value,) for key, value in decoder.items()}
        clone.add_patches(patches, strength, 1.0 - strength)
    for key in patches:
        # First in line, so that LoRAs already applied to the base still count.
        clone.patches[key].insert(0, clone.patches[key].pop())
    return clone


def unet_tensors(model: Any) -> StateDict:
    """The UNet's tensors of ComfyUI's MODEL, without a prefix."""
    return without_prefix(model.model_state_dict(HOST_UNET), HOST_UNET)


def unpatched_tensors(model: Any) -> StateDict:
    """As `unet_tensors`, without any patch.

    Another bundle or a LoRA may be in place from an earlier run; ComfyUI keeps what was there.
    """
    weights = model.get_key_patches(HOST_UNET)
    return without_prefix({key: patches[0][0] for key, patches in weights.items()}, HOST_UNET)


def check_fits(weights: WeightFile, unet: Mapping[str, Tensor]) -> None:
    """Raise WeightsError unless ControlNet and decoder have the UNet's architecture."""
    decoder_parts = tuple(part.removeprefix(UNET) for part in DECODER)
    decoder = without_prefix(weights.decoder(), UNET)
    try:
        check_control(weights, unet)
        if decoder:
            expected = {key: value for key, value in unet.items() if key.startswith(decoder_parts)}
            check_keys(decoder, expected, f"{weights.path}: decoder")
    except WeightsError as error:
        raise WeightsError(
            f"{error}. Connect the base checkpoint that these weights were trained on."
        ) from error
