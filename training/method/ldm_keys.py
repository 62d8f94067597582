"""Names of the same tensors: the published (LDM) keys, and those of diffusers.

Weight files always carry the published keys; training runs on diffusers' modules. The UNet's shape
is read from the keys, so reduced UNets (tests, demo) take the same path as SD 1.5 and SD 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...common.text import shortened
from ...models.weights import StateDict, WeightsError

RESNET_NAMES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
SHARED_NAMES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}


@dataclass(frozen=True)
class UNetShape:
    """What tells one SD 1.x/2.x UNet from another.

    channels: per level, e.g. (320, 640, 1280, 1280); attention: per level; resnets: a level's
    residual blocks in the encoder; context_dim: 768 for SD 1.x, 1024 for SD 2.x.
    """

    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    resnets: int
    context_dim: int
    linear_projection: bool

    def diffusers_config(self) -> dict[str, Any]:
        """Arguments of diffusers' UNet2DConditionModel."""
        down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention]
        up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(self.attention)]
        # diffusers' `attention_head_dim` holds the number of heads: 8 in SD 1.x, and heads of 64
        # channels in SD 2.x, the only one with linear projections.
        heads: Any = [c // 64 for c in self.channels] if self.linear_projection else 8
        return {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": self.channels,
            "layers_per_block": self.resnets,
            "down_block_types": tuple(down),
            "up_block_types": tuple(up),
            "cross_attention_dim": self.context_dim,
            "attention_head_dim": heads,
            "use_linear_projection": self.linear_projection,
        }


def read_shape(unet: Mapping[str, Tensor], what: str) -> UNetShape:
    """Read a UNet's shape from its LDM state dict (keys without `model.diffusion_model.`).

    Raises WeightsError, naming `what`, when it is no SD 1.x/2.x UNet.
    """
    try:
        return _read_shape(unet)
    except (LookupError, RuntimeError, TypeError) as error:
        raise WeightsError(
            f"{what}: its UNet is not one of Stable Diffusion 1.x or 2.x "
            f"(no {shortened(str(error))}). Give such a checkpoint."
        ) from error


def _read_shape(unet: Mapping[str, Tensor]) -> UNetShape:
    levels: list[tuple[int, bool, int]] = []
    current: list[tuple[int, bool]] = []
    index = 1
    while any(
        f"input_blocks.{index}.0.{name}" in unet for name in ("op.weight", "in_layers.2.weight")
    ):
        if f"input_blocks.{index}.0.op.weight" in unet:
            levels.append((*current[0], len(current)))
            current = []
        else:
            channels = unet[f"input_blocks.{index}.0.in_layers.2.weight"].shape[0]
            current.append((channels, f"input_blocks.{index}.1.norm.weight" in unet))
        index += 1
    levels.append((*current[0], len(current)))
    projection = unet["middle_block.1.proj_in.weight"]
    context = unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
    return UNetShape(
        channels=tuple(level[0] for level in levels),
        attention=tuple(level[1] for level in levels),
        resnets=levels[0][2],
        context_dim=context.shape[1],
        linear_projection=projection.ndim == 2,
    )


def read_diffusers_shape(unet: Mapping[str, Tensor]) -> UNetShape:
    """Read a UNet's shape from its state dict under diffusers' names."""
    levels: list[tuple[int, bool]] = []
    while f"down_blocks.{len(levels)}.resnets.0.conv1.weight" in unet:
        block = f"down_blocks.{len(levels)}."
        channels = unet[f"{block}resnets.0.conv1.weight"].shape[0]
        levels.append((channels, f"{block}attentions.0.norm.weight" in unet))
    first = [key for key in unet if key.startswith("down_blocks.0.resnets.")]
    middle = "mid_block.attentions.0."
    return UNetShape(
        channels=tuple(channels for channels, _ in levels),
        attention=tuple(attention for _, attention in levels),
        resnets=sum(key.endswith(".conv1.weight") for key in first),
        context_dim=unet[f"{middle}transformer_blocks.0.attn2.to_k.weight"].shape[1],
        linear_projection=unet[f"{middle}proj_in.weight"].ndim == 2,
    )


def _encoder_modules(shape: UNetShape) -> dict[str, str]:
    names = dict(SHARED_NAMES)
    index = 1
    for level in range(len(shape.channels)):
        for resnet in range(shape.resnets):
            names[f"input_blocks.{index}.0"] = f"down_blocks.{level}.resnets.{resnet}"
            if shape.attention[level]:
                names[f"input_blocks.{index}.1"] = f"down_blocks.{level}.attentions.{resnet}"
            index += 1
        if level < len(shape.channels) - 1:
            names[f"input_blocks.{index}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            index += 1
    return names


def _decoder_modules(shape: UNetShape) -> dict[str, str]:
    names = {"out.0": "conv_norm_out", "out.2": "conv_out"}
    index = 0
    for block, level in enumerate(reversed(range(len(shape.channels)))):
        for resnet in range(shape.resnets + 1):
            names[f"output_blocks.{index}.0"] = f"up_blocks.{block}.resnets.{resnet}"
            if shape.attention[level]:
                names[f"output_blocks.{index}.1"] = f"up_blocks.{block}.attentions.{resnet}"
            if resnet == shape.resnets and level > 0:
                position = 2 if shape.attention[level] else 1
                upsampler = f"up_blocks.{block}.upsamplers.0.conv"
                names[f"output_blocks.{index}.{position}.conv"] = upsampler
            index += 1
    return names


def _control_modules(shape: UNetShape) -> dict[str, str]:
    names = _encoder_modules(shape)
    outputs = 1 + len(shape.channels) * (shape.resnets + 1) - 1
    for index in range(outputs):
        names[f"zero_convs.{index}.0"] = f"controlnet_down_blocks.{index}"
    names["middle_block_out.0"] = "controlnet_mid_block"
    names["input_hint_block"] = "controlnet_cond_embedding"
    return names


def _parameter_names(modules: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs of (LDM prefix, diffusers prefix), residual blocks spelled out, longest first."""
    pairs = []
    for ldm, diffusers in modules.items():
        if ".resnets." in diffusers:
            pairs += [(f"{ldm}.{old}.", f"{diffusers}.{new}.") for old, new in RESNET_NAMES.items()]
        else:
            pairs.append((f"{ldm}.", f"{diffusers}."))
    return sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)


def _rename(tensors: Mapping[str, Tensor], pairs: list[tuple[str, str]], what: str) -> StateDict:
    renamed = {}
    for key, value in tensors.items():
        for old, new in pairs:
            if key.startswith(old):
                renamed[new + key[len(old) :]] = value
                break
        else:
            raise WeightsError(
                f"{what}: unexpected weight {shortened(key)} {tuple(value.shape)}. Copy or "
                "download it again."
            )
    return renamed


def unet_to_diffusers(unet: Mapping[str, Tensor], shape: UNetShape, what: str) -> StateDict:
    """LDM UNet keys (without `model.diffusion_model.`) -> diffusers UNet2DConditionModel keys."""
    modules = {**_encoder_modules(shape), **_decoder_modules(shape)}
    return _rename(unet, _parameter_names(modules), what)


def unet_to_ldm(unet: Mapping[str, Tensor], shape: UNetShape) -> StateDict:
    """diffusers UNet2DConditionModel keys -> LDM UNet keys (without `model.diffusion_model.`)."""
    modules = {**_encoder_modules(shape), **_decoder_modules(shape)}
    return _rename(unet, _reversed(_parameter_names(modules)), "UNet")


def control_to_diffusers(control: Mapping[str, Tensor], shape: UNetShape, what: str) -> StateDict:
    """LDM ControlNet keys (without `control_model.`) -> diffusers ControlNetModel keys."""
    return _rename(control, _parameter_names(_control_modules(shape)), what)


def control_to_ldm(control: Mapping[str, Tensor], shape: UNetShape) -> StateDict:
    """diffusers ControlNetModel keys -> LDM ControlNet keys (without `control_model.`)."""
    return _rename(control, _reversed(_parameter_names(_control_modules(shape))), "ControlNet")


def _reversed(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(((new, old) for old, new in pairs), key=lambda p: len(p[0]), reverse=True)
