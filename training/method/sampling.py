"""Sampling from the mask branch: the published DDIM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ...models.recipe import Recipe
from .inpainting import Known
from .networks import SiameseNetworks
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
    known: of an image that is sampled in part.
    """

    mask: Tensor
    text: Tensor
    empty_text: Tensor
    noise: Tensor
    image: Tensor | None = None
    known: Known | None = None

    def hints(self, recipe: Recipe) -> list[Tensor]:
        """The DHI's inputs: of the mask branch, and of the image branch where it joins in."""
        hints = [mask_hint(recipe, self.mask)]
        if self.image is not None:
            hints.append(image_hint(recipe, self.mask, self.image))
        return hints


class Scheduler(Protocol):
    """A sampler of diffusers, its steps set."""

    timesteps: Tensor
    init_noise_sigma: float

    def set_timesteps(self, num_inference_steps: int) -> None: ...

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any
    ) -> Any: ...


@torch.no_grad()
def sample(
    objective: Objective,
    conditions: Conditions,
    steps: int,
    cfg: float,
    scheduler: Scheduler | None = None,
) -> Tensor:
    """Latents (B, 4, h, w) by DDIM with eta 0; the hint is on both CFG sides.

    From the mask branch alone, unless `conditions` have an image. scheduler: another one of
    diffusers', with its timesteps set.
    """
    nets, recipe, schedule = objective.nets, objective.recipe, objective.schedule
    if scheduler is None:
        scheduler = ddim_scheduler(schedule.prediction, steps, schedule.zero_terminal_snr)
    features = [nets.hint_features(hint) for hint in conditions.hints(recipe)]
    return denoise(nets, recipe, conditions, features, scheduler, cfg)


@torch.no_grad()
def denoise(
    nets: SiameseNetworks,
    recipe: Recipe,
    conditions: Conditions,
    features: Sequence[Tensor],
    scheduler: Scheduler,
    cfg: float,
    **step_options: Any,
) -> Tensor:
    """Latents (B, 4, h, w) from noise, along the scheduler's timesteps.

    features: the DHI's (B, 320, h, w) of the mask branch, and of the image branch where it joins
    in; computed once. cfg: 1 leaves the empty text out, at half the time. step_options: for the
    scheduler, such as the generators of one that adds noise.
    """
    sides = 1 if cfg == 1 else 2
    features = [each.repeat(sides, 1, 1, 1) for each in features]
    text = conditions.text if sides == 1 else torch.cat([conditions.empty_text, conditions.text])
    network = partial(_guided_output, nets, recipe, text, features, cfg)
    latents = conditions.noise * scheduler.init_noise_sigma
    known = conditions.known
    if known:  # from it begins what is sampled, too
        none = torch.zeros_like(latents)
        latents = latents + scheduler.add_noise(known.latents, none, scheduler.timesteps[:1])
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, timestep)
        timesteps = timestep.to(latents.device).expand(len(noisy))
        at_timesteps = partial(network, timesteps)
        output = known.output(at_timesteps, noisy, timesteps) if known else at_timesteps(noisy)
        latents = scheduler.step(output, timestep, latents, **step_options).prev_sample
    return latents


def _guided_output(
    nets: SiameseNetworks,
    recipe: Recipe,
    text: Tensor,
    features: Sequence[Tensor],
    cfg: float,
    timesteps: Tensor,
    noisy: Tensor,
) -> Tensor:
    """What the networks say of noisy latents (B, 4, h, w), timesteps (B,), in float32.

    text and features: of both sides of CFG, the empty text's first; of one where it is 1.
    """
    sides = 1 if cfg == 1 else 2
    noisy, timesteps = noisy.repeat(sides, 1, 1, 1), timesteps.repeat(sides)
    controls = [nets.control_of(noisy, timesteps, text, each) for each in features]
    control = controls[0]
    if len(controls) > 1:
        control = joint_control(recipe, control, controls[1], weight=1.0)
    output = nets.decode(nets.encode(noisy, timesteps, text), text, control).float()
    if sides == 1:
        return output
    without, with_text = output.chunk(2)
    return without + cfg * (with_text - without)
