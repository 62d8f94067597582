"""A spike, not a feature: one Siamese training step and one sampled latent on SDXL's architecture.

python -m siamese_diffusion.tools.sdxl_spike

The UNet has SDXL's parts with random weights and few channels; docs/sdxl.md says what it shows, and
what is missing before SDXL could be supported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from ..models.dhi import DenseHintInput
from ..models.recipe import RECIPES
from ..training.method.networks import Control, Encoded, SiameseNetworks
from ..training.method.noise_schedule import NoiseSchedule
from ..training.method.objective import Batch, Objective
from ..training.method.sampling import Conditions, sample

LATENT_SIDE = 8
MAX_STEPS = 10
TIME_IDS = (64.0, 64.0, 0.0, 0.0, 64.0, 64.0)  # original size, crop's corner, training size


@dataclass(frozen=True)
class Size:
    """What tells the spike's UNet from SDXL's.

    text: width of the two encoders' features side by side; pooled: of the second one's summary.
    """

    channels: tuple[int, int, int]
    layers: tuple[int, int, int]
    text: int
    pooled: int
    time: int


SDXL = Size((320, 640, 1280), (1, 2, 10), 2048, 1280, 256)
SMALL = Size((320, 64, 64), (1, 1, 2), 64, 32, 8)  # the DHI ends in 320 channels here too


def build_unet(size: Size) -> UNet2DConditionModel:
    """A UNet with SDXL's blocks: no attention at the first level, deep transformers below."""
    return UNet2DConditionModel(
        block_out_channels=size.channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=size.layers,
        attention_head_dim=tuple(max(1, channels // 64) for channels in size.channels),
        cross_attention_dim=size.text,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=size.time,
        projection_class_embeddings_input_dim=size.pooled + len(TIME_IDS) * size.time,
    )


class SdxlNetworks(SiameseNetworks):
    """The Siamese networks with SDXL's further conditioning: pooled text and image sizes.

    `text` (B, 78, D): the 77 tokens, and in the last row pooled text and sizes, filled up with
    zeros, so that all that cuts a batch cuts them alike.
    """

    def __init__(self, unet: UNet2DConditionModel, size: Size) -> None:
        controlnet = ControlNetModel.from_unet(unet)
        controlnet.controlnet_cond_embedding = DenseHintInput(3, size.channels[0])
        super().__init__(unet, controlnet)
        self.size = size

    def control(self, noisy: Tensor, timesteps: Tensor, text: Tensor, hint: Tensor) -> Control:
        net = self.controlnet
        features = net.controlnet_cond_embedding(hint)
        encoded = self._encode(net, noisy, timesteps, text, features)
        convolutions = zip(net.controlnet_down_blocks, encoded.skips, strict=True)
        return Control(
            tuple(conv(skip) for conv, skip in convolutions),
            net.controlnet_mid_block(encoded.middle),
        )

    @torch.no_grad()
    def encode(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Encoded:
        return self._encode(self.unet, noisy, timesteps, text)

    def decode(self, encoded: Encoded, text: Tensor, control: Control | None = None) -> Tensor:
        return super().decode(encoded, text[:, :-1], control)

    def decode_frozen(self, encoded: Encoded, text: Tensor, control: Control | None) -> Tensor:
        return SdxlNetworks.decode(self, encoded, text, control)

    def _encode(
        self, net: Any, noisy: Tensor, timesteps: Tensor, text: Tensor, hint: Tensor | None = None
    ) -> Encoded:
        tokens, summary = text[:, :-1], text[:, -1]
        pooled = summary[:, : self.size.pooled]
        sizes = summary[:, self.size.pooled : self.size.pooled + len(TIME_IDS)]
        added = torch.cat([pooled, net.add_time_proj(sizes.flatten()).view(len(sizes), -1)], dim=1)
        time = net.time_embedding(net.time_proj(timesteps).to(noisy.dtype))
        time = time + net.add_embedding(added)
        hidden = net.conv_in(noisy)
        hidden = hidden if hint is None else hidden + hint
        skips = [hidden]
        for block in net.down_blocks:
            attends = getattr(block, "has_cross_attention", False)
            arguments = {"encoder_hidden_states": tokens} if attends else {}
            hidden, outputs = block(hidden_states=hidden, temb=time, **arguments)
            skips += outputs
        hidden = net.mid_block(hidden, time, encoder_hidden_states=tokens)
        return Encoded(tuple(skips), hidden, time)


def random_text(size: Size, count: int, seed: int) -> Tensor:
    """(count, 78, D), standing in for SDXL's two text encoders."""
    values = torch.Generator().manual_seed(seed)
    text = torch.zeros(count, 78, size.text)
    text[:, :77] = torch.randn(count, 77, size.text, generator=values)
    text[:, 77, : size.pooled] = torch.randn(count, size.pooled, generator=values)
    text[:, 77, size.pooled : size.pooled + len(TIME_IDS)] = torch.tensor(TIME_IDS)
    return text


def train_step(objective: Objective, batch: Batch, step: int) -> dict[str, float]:
    """One step of AdamW on all four terms; the mean losses by name."""
    nets = objective.nets
    optimizer = torch.optim.AdamW([p for p in nets.parameters() if p.requires_grad], lr=1e-4)
    losses = objective.losses(batch, step)
    torch.stack([term.mean() for term in losses.values()]).sum().backward()
    optimizer.step()
    return {name: float(term.detach().mean()) for name, term in losses.items()}


def run_spike(seed: int = 0) -> tuple[SdxlNetworks, dict[str, float], Tensor]:
    """The networks after one step, its losses, and a latent sampled from the mask branch."""
    torch.manual_seed(seed)
    nets = SdxlNetworks(build_unet(SMALL), SMALL)
    objective = Objective(nets, NoiseSchedule(), RECIPES["published"], MAX_STEPS)
    latents = torch.randn(2, 4, LATENT_SIDE, LATENT_SIDE)
    pixels = 8 * LATENT_SIDE
    mask = torch.zeros(2, 1, pixels, pixels)
    mask[..., pixels // 4 : pixels // 2, pixels // 4 : pixels // 2] = 1
    batch = Batch(
        latents=latents,
        noise=torch.randn_like(latents),
        timesteps=torch.tensor([100, 700]),
        text=random_text(SMALL, 2, seed),
        mask=mask,
        image=torch.rand(2, 3, pixels, pixels),
    )
    losses = train_step(objective, batch, MAX_STEPS // 2)
    empty = random_text(SMALL, 1, seed + 1)
    conditions = Conditions(
        mask[:1], batch.text[:1], empty, torch.randn(1, 4, LATENT_SIDE, LATENT_SIDE)
    )
    return nets, losses, sample(objective, conditions, steps=2, cfg=2.0)


def full_size() -> dict[str, float]:
    """Millions of parameters at SDXL's own size: trained, and all of the UNet."""
    with torch.device("meta"):
        unet = build_unet(SDXL)
        nets = SdxlNetworks(unet, SDXL)
    trained = {
        "ControlNet": sum(p.numel() for p in nets.controlnet.parameters()),
        "decoder": sum(p.numel() for p in nets.decoder.parameters()),
        "UNet": sum(p.numel() for p in unet.parameters()),
    }
    return {name: count / 1e6 for name, count in trained.items()}


def main(_arguments: Sequence[str] | None = None) -> int:
    _, losses, latent = run_spike()
    print("losses of one step:", {name: round(value, 4) for name, value in losses.items()})
    print("sampled latent:", tuple(latent.shape), "finite:", bool(torch.isfinite(latent).all()))
    print("at full size, millions of parameters:", {k: round(v) for k, v in full_size().items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
