"""What is measured: random networks, a batch, and one step of ours or of the published way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ..models.recipe import RECIPES
from ..training.method.ldm_keys import UNetShape
from ..training.method.networks import SiameseNetworks, new_controlnet
from ..training.method.noise_schedule import TIMESTEPS, NoiseSchedule
from ..training.method.objective import AUGMENTATION_MAX_TIMESTEP, Batch, Losses, Objective
from .published import PublishedObjective

MAX_STEPS = 3000
STEP = 2000  # past the third from which the augmentation runs, where most steps are
LEARNING_RATE = 1e-5

NANO = UNetShape((320, 320), (True, True), 1, 768, False)  # as tools/nano.py
SD15 = UNetShape((320, 640, 1280, 1280), (True, True, True, False), 2, 768, False)
SMALL = UNetShape((64, 128), (True, True), 1, 768, False)
TINY = UNetShape((32,), (True,), 1, 32, False)  # shows that a benchmark runs, no more


@dataclass(frozen=True)
class Scale:
    """What is measured on. pixels: width and height of the images, a multiple of 16."""

    name: str
    shape: UNetShape
    batch: int
    pixels: int
    rounds: int


def random_networks(shape: UNetShape, device: torch.device | str = "cpu") -> SiameseNetworks:
    """Random networks; those that start at zero too, or half of the gradients would be zero."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**shape.diffusers_config())
        nets = SiameseNetworks(unet, new_controlnet(unet, hint_channels=3))
    control = nets.controlnet
    zero_layers: tuple[nn.Module, ...] = (
        control.controlnet_down_blocks,
        control.controlnet_mid_block,
        control.controlnet_cond_embedding[-1],
    )
    for layer in zero_layers:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.02)
    return nets.to(device).train()


def spread_timesteps(count: int, augmented: int) -> list[int]:
    """`augmented` timesteps from 0..200, the others from 201..999, each spread evenly."""
    first = AUGMENTATION_MAX_TIMESTEP + 1
    low = [(2 * i + 1) * first // (2 * augmented) for i in range(augmented)]
    others = count - augmented
    return low + [first + (2 * i + 1) * (TIMESTEPS - first) // (2 * others) for i in range(others)]


def random_batch(scale: Scale, augmented: int, device: torch.device | str = "cpu") -> Batch:
    """A batch of which `augmented` samples have t <= 200."""
    random = torch.Generator().manual_seed(1)
    latents = (scale.batch, 4, scale.pixels // 8, scale.pixels // 8)
    pixels = (scale.batch, 1, scale.pixels, scale.pixels)
    return Batch(
        latents=torch.randn(latents, generator=random),
        noise=torch.randn(latents, generator=random),
        timesteps=torch.tensor(spread_timesteps(scale.batch, augmented)),
        text=torch.randn((scale.batch, 77, scale.shape.context_dim), generator=random),
        mask=(torch.rand(pixels, generator=random) > 0.5).float(),
        image=torch.rand(pixels, generator=random).repeat(1, 3, 1, 1),
    ).to(torch.device(device))


class Step:
    """One optimizer step, ours or the published way, as training runs it; returns the losses.

    half: a dtype for autocast and for what does not learn. The networks are changed in place by it
    and by the other settings.
    """

    def __init__(
        self,
        nets: SiameseNetworks,
        *,
        published: bool = False,
        half: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> None:
        self.device = next(nets.parameters()).device
        self.half = half
        if half and not published:
            nets.cast_frozen(half)
        if channels_last:
            nets.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        schedule = NoiseSchedule("epsilon", self.device)
        self._published = PublishedObjective(nets, schedule, MAX_STEPS) if published else None
        self._ours = Objective(nets, schedule, RECIPES["published"], MAX_STEPS)
        trained = [p for p in nets.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)

    def __call__(self, batch: Batch) -> Losses:
        losses = self.losses(batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses

    def losses(self, batch: Batch) -> Losses:
        """Forward and backward: the gradients are there afterwards."""
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            if self._published is None:
                return self._ours.losses(batch, STEP, lambda terms: terms.mean().backward())
            losses = self._published.losses(batch, STEP)
            total = torch.stack([*losses.values()]).sum(0)
            total.mean().backward()
        return losses
