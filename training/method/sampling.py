"""Sampling from the mask branch: the published DDIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ...models.recipe import Recipe
from .noise_schedule import BETA_END, BETA_START, TIMESTEPS, Prediction
from .objective import Objective, image_hint, joint_control, mask_hint


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
    image: (B, 3, 8h, 8w) in [0, 1]; with it the image branch joins in, as in (4) with w = 1.
    """

    mask: Tensor
    text: Tensor
    empty_text: Tensor
    noise: Tensor
    image: Tensor | None = None

    def hints(self, recipe: Recipe) -> list[Tensor]:
        """The DHI's inputs: of the mask branch, and of the image branch where it joins in."""
        hints = [mask_hint(recipe, self.mask)]
        if self.image is not None:
            hints.append(image_hint(recipe, self.mask, self.image))
        return hints


@torch.no_grad()
def sample(
    objective: Objective,
    conditions: Conditions,
    steps: int,
    cfg: float,
    scheduler: Any | None = None,
) -> Tensor:
    """Latents (B, 4, h, w) by DDIM with eta 0; the hint is on both CFG sides.

    From the mask branch alone, unless `conditions` have an image. scheduler: another one of
    diffusers', with its timesteps set.
    """
    nets, recipe = objective.nets, objective.recipe
    schedule = objective.schedule
    if scheduler is None:
        scheduler = ddim_scheduler(schedule.prediction, steps, schedule.zero_terminal_snr)
    hints = [torch.cat([hint, hint]) for hint in conditions.hints(recipe)]
    text = torch.cat([conditions.empty_text, conditions.text])
    latents = conditions.noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        doubled = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
        timesteps = timestep.to(latents.device).expand(len(doubled))
        controls = [nets.control(doubled, timesteps, text, hint) for hint in hints]
        control = controls[0]
        if len(controls) > 1:
            control = joint_control(recipe, control, controls[1], weight=1.0)
        output = nets.decode(nets.encode(doubled, timesteps, text), text, control)
        without, with_text = output.float().chunk(2)
        guided = without + cfg * (with_text - without)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents
