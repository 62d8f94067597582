"""Whether Siamese weights fit a base model: every key and shape of them follows from its UNet."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile

import torch
from torch import Tensor

from .dhi import DenseHintInput
from .kinds import DHI_KEY
from .weights import StateDict, WeightFile, check_keys

ENCODER = ("time_embed.", "input_blocks.", "middle_block.")  # the ControlNet starts as its copy
DHI = "input_hint_block."


def check_control(weights: WeightFile, unet: Mapping[str, Tensor]) -> None:
    """Raise WeightsError unless the ControlNet has the keys and shapes that follow from the UNet.

    `unet`: its tensors without a prefix. Encoder, Dense Hint Input and zero convolutions count.
    """
    found = weights.control()
    check_keys(
        found, expected_control(unet, found[DHI_KEY].shape[1]), f"{weights.path}: ControlNet"
    )


def expected_control(unet: Mapping[str, Tensor], hint_channels: int) -> StateDict:
    """The ControlNet's tensors for a UNet: the encoder's own, the others without values."""
    encoder = {key: value for key, value in unet.items() if key.startswith(ENCODER)}
    widths = _block_widths(encoder)
    if not widths:
        return encoder
    expected = dict(encoder)
    for number, width in enumerate(widths):
        expected |= _convolution(f"zero_convs.{number}.0", width)
    expected |= _convolution("middle_block_out.0", widths[-1])
    with torch.device("meta"):
        hints = DenseHintInput(hint_channels, widths[0]).state_dict()
    return expected | {DHI + key: value for key, value in hints.items()}


def _block_widths(encoder: Mapping[str, Tensor]) -> list[int]:
    """Output channels of each input block: those of the convolution that ends it."""
    ends = ("weight", "op.weight", "out_layers.3.weight")

    def width(number: int) -> int:
        names = (f"input_blocks.{number}.0.{end}" for end in ends)
        shapes = (encoder[name].shape for name in names if name in encoder)
        return next((shape[0] for shape in shapes if shape), 0)

    return list(takewhile(bool, map(width, count())))


def _convolution(name: str, width: int) -> StateDict:
    """A 1x1 convolution between features of that width."""
    return {
        f"{name}.weight": torch.empty(width, width, 1, 1, device="meta"),
        f"{name}.bias": torch.empty(width, device="meta"),
    }
