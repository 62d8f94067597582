"""The published DDIM, and the samplers and schedules of diffusers by name."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

from ..training.method.noise_schedule import BETA_END, BETA_START, TIMESTEPS, Prediction
from ..training.method.sampling import Scheduler, ddim_scheduler
from .errors import SynthesisError
from .settings import PUBLISHED, SCHEDULES

SUFFIX = "Scheduler"  # of the names of diffusers' classes
# As in the scheduler settings that Stable Diffusion 1.x and 2.x are published with.
STABLE_DIFFUSION = {
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def make_scheduler(name: str, schedule: str, prediction: Prediction, steps: int) -> Scheduler:
    """A sampler with its steps set. Raises SynthesisError for one without that schedule."""
    if name == PUBLISHED:
        if schedule != "default":
            raise SynthesisError(
                f"--schedule {schedule}: {PUBLISHED} has its own; choose another --sampler."
            )
        return ddim_scheduler(prediction, steps)
    kind = getattr(diffusers, name + SUFFIX)
    known = inspect.signature(kind.__init__).parameters
    options: dict[str, Any] = {k: v for k, v in STABLE_DIFFUSION.items() if k in known}
    if schedule != "default":
        options[SCHEDULES[schedule]] = True
        if SCHEDULES[schedule] not in known:
            raise SynthesisError(f"--schedule {schedule}: the sampler {name} does not have it.")
    scheduler: Scheduler = kind(
        num_train_timesteps=TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        prediction_type="epsilon" if prediction == "epsilon" else "v_prediction",
        **options,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def adds_noise(scheduler: Scheduler) -> bool:
    """Whether its steps take generators, and so may draw noise."""
    return "generator" in inspect.signature(scheduler.step).parameters
