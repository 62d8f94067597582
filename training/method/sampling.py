"""Sampling from the mask branch: the published DDIM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from .noise_schedule import BETA_END, BETA_START, TIMESTEPS, Prediction
from .objective import Objective, mask_hint


def ddim_scheduler(
    prediction: Prediction, steps: int, zero_terminal_snr: bool = False
) -> DDIMScheduler:
    """The published sampler's schedule: timesteps 1, 1 + 1000/steps, ...; ends at alpha_0.

    zero_terminal_snr: begins at timestep 999, whose noise such a model has learnt to begin from.
    """
    scheduler = DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing" if zero_terminal_snr else "leading",
        rescale_betas_zero_snr=zero_terminal_snr,
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


@torch.no_grad()
def sample(objective: Objective, conditions: Conditions, steps: int, cfg: float) -> Tensor:
    """Latents (B, 4, h, w) from the mask branch alone, DDIM with eta 0, mask on both CFG sides."""
    nets = objective.nets
    schedule = objective.schedule
    scheduler = ddim_scheduler(schedule.prediction, steps, schedule.zero_terminal_snr)
    hint = mask_hint(objective.recipe, conditions.mask)
    hint = torch.cat([hint, hint])
    text = torch.cat([conditions.empty_text, conditions.text])
    latents = conditions.noise
    for timestep in scheduler.timesteps:
        doubled = torch.cat([latents, latents])
        timesteps = timestep.to(latents.device).expand(len(doubled))
        control = nets.control(doubled, timesteps, text, hint)
        output = nets.decode(nets.encode(doubled, timesteps, text), text, control)
        without, with_text = output.float().chunk(2)
        guided = without + cfg * (with_text - without)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents
