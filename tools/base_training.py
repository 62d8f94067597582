"""Trains the nano's UNet: plain noise prediction with captions, as Stable Diffusion was trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..common.files import replacing
from ..training.method.noise_schedule import TIMESTEPS, NoiseSchedule


@dataclass(frozen=True)
class BaseTraining:
    """Settings of a run; all that is random depends on (seed, step).

    warmup: steps over which the learning rate rises, before a cosine to zero. text_dropout: share
    of captions replaced by the empty one. bf16: autocast, faster where the processor has it.
    save_every: steps between the states that a stopped run goes on from; 0 for none.
    """

    steps: int
    batch: int = 8
    learning_rate: float = 3e-4
    warmup: int = 20
    text_dropout: float = 0.5
    bf16: bool = False
    save_every: int = 0
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class BaseData:
    """latents (N, 4, h, w); text (K, 77, D), the empty caption first; captions (N,): rows of it."""

    latents: Tensor
    text: Tensor
    captions: Tensor


def train_unet(unet: Any, data: BaseData, settings: BaseTraining, state: Path) -> None:
    """Train in place. With `save_every`, a stopped run goes on from the file `state`."""
    unet.train()
    device = next(unet.parameters()).device
    data = BaseData(*(tensor.to(device) for tensor in (data.latents, data.text, data.captions)))
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=settings.learning_rate, weight_decay=0, fused=True
    )
    first = _load_state(state, settings, unet, optimizer)
    schedule = NoiseSchedule(device=device)
    bar = tqdm(range(first, settings.steps), "training the base", settings.steps, initial=first)
    average = torch.ones((), device=device)
    for step in bar:
        optimizer.param_groups[0]["lr"] = settings.rate(step)
        loss = _loss(unet, data, settings, step, schedule)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average = average + (loss.detach() - average) * max(0.02, 1 / (step - first + 1))
        if (step + 1) % 10 == 0:
            bar.set_postfix(loss=f"{float(average):.3f}")
        if settings.save_every and (step + 1) % settings.save_every == 0:
            _save_state(state, settings, unet, optimizer, step + 1)
    unet.eval()


def _loss(
    unet: Any, data: BaseData, settings: BaseTraining, step: int, schedule: NoiseSchedule
) -> Tensor:
    random = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    device = data.latents.device
    rows = torch.randint(len(data.latents), (settings.batch,), generator=random).to(device)
    latents = data.latents[rows]
    noise = torch.randn(latents.shape, generator=random).to(device)
    timesteps = torch.randint(TIMESTEPS, (settings.batch,), generator=random).to(device)
    kept = (torch.rand(settings.batch, generator=random) >= settings.text_dropout).to(device)
    text = data.text[data.captions[rows] * kept]
    noisy = schedule.add_noise(latents, noise, timesteps)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        predicted = unet(noisy, timesteps, text).sample
    return nn.functional.mse_loss(predicted.float(), noise)


def _save_state(
    path: Path, settings: BaseTraining, unet: Any, optimizer: torch.optim.Optimizer, step: int
) -> None:
    state = {
        "settings": asdict(settings),
        "step": step,
        "unet": unet.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _load_state(
    path: Path, settings: BaseTraining, unet: Any, optimizer: torch.optim.Optimizer
) -> int:
    """The step to go on from; 0 where no run was stopped.

    Raises ValueError for a state of other settings.
    """
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    if state["settings"] != asdict(settings):
        raise ValueError(f"{path}: is of a run with other settings. Delete it to start over.")
    unet.load_state_dict(state["unet"])
    optimizer.load_state_dict(state["optimizer"])
    print(f"going on from step {state['step']}: {path}")
    return int(state["step"])
