"""Weights made from their names by the oracle's rule, so that no test needs a download."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from siamese_diffusion.models.dhi import DenseHintInput
from siamese_diffusion.models.kinds import CONTROL, DECODER, UNET, Kind
from siamese_diffusion.models.weights import StateDict, WeightFile
from torch import Tensor

SCALE = 0.05  # of every weight with two or more dimensions, zero convolutions included


def seeded(name: str, shape: Iterable[int]) -> Tensor:
    """The oracle's weight of that key: only bit-exact on the kind of CPU that made them."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = torch.randn(tuple(shape), generator=generator)
    if values.ndim > 1:
        return values * SCALE
    return 1 + values * 0.02 if name.endswith(".weight") else values * 0.02


def seeded_dhi(hint_channels: int = 3, width: int = 320) -> StateDict:
    """The DHI's weights, named as in DenseHintInput; `width`: its output channels."""
    with torch.device("meta"):
        shapes = DenseHintInput(hint_channels, width).state_dict()
    prefix = f"{CONTROL}input_hint_block."
    return {key: seeded(prefix + key, value.shape) for key, value in shapes.items()}


def made_up_bundle(base: Mapping[str, Tensor], hint_channels: int = 3) -> StateDict:
    """A bundle for a base checkpoint: nothing in it is zero, so that it changes every image."""
    encoder = ("time_embed.", "input_blocks.", "middle_block.")
    unet = {key.removeprefix(UNET): value for key, value in base.items() if key.startswith(UNET)}
    control = {key: value.float() for key, value in unet.items() if key.startswith(encoder)}
    channels = _block_channels(control)
    for block, width in enumerate(channels):
        control |= _convolution(f"zero_convs.{block}.0", width)
    control |= _convolution("middle_block_out.0", channels[-1])
    hints = seeded_dhi(hint_channels, channels[0])
    control |= {f"input_hint_block.{key}": value for key, value in hints.items()}
    decoder = {
        key: value.float() + 0.1 * seeded(f"trained {key}", value.shape)
        for key, value in base.items()
        if key.startswith(DECODER)
    }
    return {**decoder, **{CONTROL + key: value for key, value in control.items()}}


def _block_channels(encoder: StateDict) -> list[int]:
    """Output channels of each input block, from the convolution that ends it."""
    channels: list[int] = []
    while True:
        names = (
            f"input_blocks.{len(channels)}.0.{end}weight" for end in ("out_layers.3.", "op.", "")
        )
        found = [encoder[name].shape[0] for name in names if name in encoder]
        if not found:
            return channels
        channels.append(found[0])


def _convolution(name: str, channels: int) -> StateDict:
    weight = seeded(f"{CONTROL}{name}.weight", (channels, channels, 1, 1))
    return {f"{name}.weight": weight, f"{name}.bias": seeded(f"{CONTROL}{name}.bias", (channels,))}


def unet_shapes(channel_mult: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a Stable Diffusion 1.5 UNet; each level one residual block, attention."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    levels = len(channel_mult)
    unet = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, context_dim=768,
        channel_mult=channel_mult, num_res_blocks=[1] * levels, num_heads=8,
        use_spatial_transformer=True, transformer_depth=[1] * levels, transformer_depth_middle=1,
        transformer_depth_output=[1] * (2 * levels), legacy=False,
        operations=comfy.ops.disable_weight_init, device=torch.device("meta"),
    )  # fmt: skip
    return {UNET + key: tuple(value.shape) for key, value in unet.state_dict().items()}


def weight_file(tensors: StateDict, kind: Kind, **metadata: str) -> WeightFile:
    return WeightFile(Path("made_up.safetensors"), kind, dict(tensors), metadata)


def load_model(pack: SimpleNamespace, tensors: StateDict) -> Any:
    """ComfyUI's MODEL of a checkpoint's tensors."""
    return pack.loader_nodes._load_base(dict(tensors), "made_up.safetensors")[0]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over norm of the reference."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())
