"""Sampling from the mask branch: the published DDIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from .networks import SiameseNetworks
from .noise_schedule import BETA_END, BETA_START, TIMESTEPS, Prediction
from .objective import Objective, mask_hint


def ddim_scheduler(prediction: Prediction, steps: int) -> DDIMScheduler:
    """The published sampler's schedule: timesteps 1, 1 + 1000/steps, ...; ends at alpha_0."""
    scheduler = DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon" if prediction == "epsilon" else "v_prediction",
    )
    scheduler.set_timesteps(steps)
    return scheduler


@dataclass(frozen=True)
class Conditions:
    """What images are sampled from; that of previews is fixed for a whole run.

    mask: (B, 1 or 3, 8h, 8w) in [0, 1]; text, empty_text: (B, 77, D); noise: (B, 4, h, w).
    """

    mask: Tensor
    text: Tensor
    empty_text: Tensor
    noise: Tensor


class Scheduler(Protocol):
    """A sampler of diffusers, its steps set."""

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int) -> None: ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any
    ) -> Any: ...


@torch.no_grad()
def sample(objective: Objective, conditions: Conditions, steps: int, cfg: float) -> Tensor:
    """Latents (B, 4, h, w) from the mask branch alone, DDIM with eta 0, mask on both CFG sides."""
    features = objective.nets.hint_features(mask_hint(objective.recipe, conditions.mask))
    scheduler = ddim_scheduler(objective.schedule.prediction, steps)
    return denoise(objective.nets, conditions, features, scheduler, cfg)


@torch.no_grad()
def denoise(
    nets: SiameseNetworks,
    conditions: Conditions,
    features: Tensor,
    scheduler: Scheduler,
    cfg: float,
    **step_options: Any,
) -> Tensor:
    """Latents (B, 4, h, w) from noise, along the scheduler's timesteps.

    features: the DHI's (B, 320, h, w), computed once. cfg: 1 leaves the empty text out, at half the
    time. step_options: for the scheduler, such as the generators of one that adds noise.
    """
    sides = 1 if cfg == 1 else 2
    features = features.repeat(sides, 1, 1, 1)
    text = conditions.text if sides == 1 else torch.cat([conditions.empty_text, conditions.text])
    latents = conditions.noise
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, timestep).repeat(sides, 1, 1, 1)
        timesteps = timestep.to(latents.device).expand(len(noisy))
        control = nets.control_of(noisy, timesteps, text, features)
        output = nets.decode(nets.encode(noisy, timesteps, text), text, control).float()
        if sides == 2:
            without, with_text = output.chunk(2)
            output = without + cfg * (with_text - without)
        latents = scheduler.step(output, timestep, latents, **step_options).prev_sample
    return latents
