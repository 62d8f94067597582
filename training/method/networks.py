"""The three networks of one Siamese-Diffusion step: ControlNet C, encoder E, decoder D.

E and D are the halves of one diffusers UNet, run apart so that the frozen encoder is computed once
for both branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from ...models.dhi import DenseHintInput


@dataclass(frozen=True)
class Control:
    """What the ControlNet adds: a tensor per skip connection, in encoder order, and the middle."""

    skips: tuple[Tensor, ...]
    middle: Tensor

    def detach(self) -> Control:
        return Control(tuple(skip.detach() for skip in self.skips), self.middle.detach())

    def weighted_sum(self, other: Control, own_weight: float, other_weight: float) -> Control:
        """own_weight * self + other_weight * other, tensor by tensor."""

        def add(own: Tensor, others: Tensor) -> Tensor:
            return own_weight * own + other_weight * others

        skips = (add(a, b) for a, b in zip(self.skips, other.skips, strict=True))
        return Control(tuple(skips), add(self.middle, other.middle))


@dataclass(frozen=True)
class Encoded:
    """Output of the encoder: skips in encoder order, middle block, time embedding."""

    skips: tuple[Tensor, ...]
    middle: Tensor
    time: Tensor


Decode = Callable[[Encoded, Tensor, Control], Tensor]


class SiameseNetworks(nn.Module):
    """A ControlNet with a DHI, and a UNet of which only the decoder is trained.

    Latents are (B, 4, h, w), hints (B, C, 8h, 8w) in [0, 1], timesteps (B,) in 0..999, text
    (B, 77, D).
    """

    def __init__(self, unet: UNet2DConditionModel, controlnet: ControlNetModel) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = controlnet
        unet.requires_grad_(False)
        self.decoder = nn.ModuleList([unet.up_blocks, unet.conv_norm_out, unet.conv_out])
        self.decoder.requires_grad_(True)

    def control(self, noisy: Tensor, timesteps: Tensor, text: Tensor, hint: Tensor) -> Control:
        """C(z_t, t, text, hint)."""
        return self.control_of(noisy, timesteps, text, self.hint_features(hint))

    def hint_features(self, hint: Tensor) -> Tensor:
        """DHI(hint), (B, 320, h, w): the part of the control that no timestep changes."""
        return self.controlnet.controlnet_cond_embedding(hint)

    def control_of(
        self, noisy: Tensor, timesteps: Tensor, text: Tensor, features: Tensor
    ) -> Control:
        """As `control`, of a hint's features."""
        net = self.controlnet
        encoded = _encode(net, noisy, timesteps, text, features)
        zero_convs = zip(net.controlnet_down_blocks, encoded.skips, strict=True)
        return Control(
            tuple(conv(skip) for conv, skip in zero_convs), net.controlnet_mid_block(encoded.middle)
        )

    @torch.no_grad()
    def encode(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Encoded:
        """E(z_t): the frozen encoder and middle block of the UNet."""
        return _encode(self.unet, noisy, timesteps, text)

    def decode(self, encoded: Encoded, text: Tensor, control: Control | None = None) -> Tensor:
        """D(E(z_t), control) -> the network's output (B, 4, h, w)."""
        hidden, skips = encoded.middle, list(encoded.skips)
        if control is not None:
            hidden = hidden + control.middle
            skips = [a + b for a, b in zip(skips, control.skips, strict=True)]
        for block in self.unet.up_blocks:
            count = len(block.resnets)
            taken, skips = tuple(skips[-count:]), skips[:-count]
            arguments = {"encoder_hidden_states": text} if _has_attention(block) else {}
            hidden = block(
                hidden_states=hidden,
                temb=encoded.time,
                res_hidden_states_tuple=taken,
                # Sizes that do not halve evenly must come back to the skip's size.
                upsample_size=skips[-1].shape[2:] if skips else None,
                **arguments,
            )
        hidden = self.unet.conv_act(self.unet.conv_norm_out(hidden))
        return self.unet.conv_out(hidden)

    def decode_frozen(self, encoded: Encoded, text: Tensor, control: Control | None) -> Tensor:
        """As `decode`, for use inside `frozen_decoder`.

        A function of its own, because a compiled one overlooks a change of requires_grad.
        """
        return SiameseNetworks.decode(self, encoded, text, control)

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Keep the frozen weights in half precision; autocast would convert them at every use."""
        unet = self.unet
        for module in (unet.time_embedding, unet.conv_in, unet.down_blocks, unet.mid_block):
            module.to(dtype)

    def compile_parts(self) -> None:
        """Compile C, E and D; each keeps its name, so that the objective reads the same."""
        self.control = torch.compile(self.control)  # type: ignore[method-assign]
        self.control_of = torch.compile(self.control_of)  # type: ignore[method-assign]
        self.encode = torch.compile(self.encode)  # type: ignore[method-assign]
        self.decode = torch.compile(self.decode)  # type: ignore[method-assign]
        self.decode_frozen = torch.compile(self.decode_frozen)  # type: ignore[method-assign]

    @contextmanager
    def frozen_decoder(self) -> Iterator[Decode]:
        """A D through which losses reach the ControlNet without computing D's own gradients."""
        trained = [p for p in self.decoder.parameters() if p.requires_grad]
        self.decoder.requires_grad_(False)
        try:
            yield self.decode_frozen
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def _encode(
    net: UNet2DConditionModel | ControlNetModel,
    noisy: Tensor,
    timesteps: Tensor,
    text: Tensor,
    hint_features: Tensor | None = None,
) -> Encoded:
    """UNet encoder and ControlNet are the same network, but for the hint."""
    # The embedding is computed in float32 and cast, as published.
    time = net.time_embedding(net.time_proj(timesteps).to(noisy.dtype))
    hidden = net.conv_in(noisy)
    if hint_features is not None:
        hidden = hidden + hint_features
    skips = [hidden]
    for block in net.down_blocks:
        arguments = {"encoder_hidden_states": text} if _has_attention(block) else {}
        hidden, outputs = block(hidden_states=hidden, temb=time, **arguments)
        skips += outputs
    hidden = net.mid_block(hidden, time, encoder_hidden_states=text)
    return Encoded(tuple(skips), hidden, time)


def _has_attention(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def new_controlnet(unet: UNet2DConditionModel, hint_channels: int) -> ControlNetModel:
    """A ControlNet that starts as a copy of the UNet's encoder, with zero convolutions and DHI."""
    controlnet = ControlNetModel.from_unet(unet)
    controlnet.controlnet_cond_embedding = DenseHintInput(
        hint_channels, unet.config["block_out_channels"][0]
    )
    return controlnet
