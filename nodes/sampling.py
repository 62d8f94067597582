"""Sampling with ComfyUI's samplers, and the published DDIM as an additional scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor
from torch.nn import functional

from ..models.dhi import DOWNSCALE
from .conditioning import Conditioning, Timing, apply_hint, apply_mask, siamese
from .hints import binary_mask, check_finite, mask_batch
from .limits import check_sampled_size

Callback = Callable[[int, Tensor, Tensor, int], None]  # step, x0, x, number of steps

# With sampler `ddim`: the published DDIM. ComfyUI's `ddim_uniform` takes the same timesteps, but
# starts from slightly less noise, and ends without noise where the published code keeps a trace.
PUBLISHED_SCHEDULER = "ddim_published"


def sampler_names() -> list[str]:
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    return [PUBLISHED_SCHEDULER, *comfy.samplers.KSampler.SCHEDULERS]


@dataclass(frozen=True)
class Settings:
    """Settings of the sampler; the seed is also used by samplers that add noise at each step."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    seed: int


@dataclass(frozen=True)
class Sources:
    """What a mask is sampled with: MODEL, prompts and Siamese CONTROL_NET."""

    model: Any
    positive: Conditioning
    negative: Conditioning
    control_net: Any


@dataclass(frozen=True)
class Known:
    """Latents (B, 4, h, w) of an image, and where they are sampled anew: (B, 1, H, W) in [0, 1]."""

    latents: Tensor
    sampled: Tensor


def sample_masks(
    sources: Sources,
    mask: Tensor,
    size: tuple[int, int],
    settings: Settings,
    callback: Callback | None = None,
) -> Tensor:
    """Latents (B, 4, h, w), one for each of B masks.

    size: (width, height) in pixels, 0 for the mask's. Raises ValueError when mask, size or
    ControlNet do not fit together.
    """
    latents = empty_latents(mask, *size)
    # The control resizes its hint to the latents in the same way: here it takes less memory.
    shape = tuple(DOWNSCALE * side for side in latents.shape[-2:])
    mask = functional.interpolate(binary_mask(mask)[:, None], shape, mode="nearest-exact")
    positive, negative = apply_mask(sources.positive, sources.negative, sources.control_net, mask)
    empty = comfy.sample.fix_empty_latent_channels(sources.model, latents)
    noise = comfy.sample.prepare_noise(empty, settings.seed)
    found = sample(sources.model, noise, positive, negative, settings, callback)
    check_finite(found, "Sampling has failed: the latent")
    return found


def sample_hints(
    sources: Sources,
    hints: Tensor,
    size: tuple[int, int],
    settings: Settings,
    seeds: Sequence[int],
    callback: Callback | None = None,
) -> Tensor:
    """Latents (B, 4, h, w) of B hints (B, C, H, W), each from the noise of its own seed.

    size: as in `sample_masks`. The latents of a seed do not depend on the others, unless the
    sampler draws noise at its steps (`samples_alone`).
    """
    pair = (sources.positive, sources.negative)
    empty = empty_latents(hints[:, 0], *size)
    scale = tuple(DOWNSCALE * side for side in empty.shape[-2:])
    # At the image's size already, so that the memory it takes to encode them is known.
    hints = functional.interpolate(hints, scale, mode="nearest-exact")
    positive, negative = apply_hint(pair, siamese(sources.control_net), hints, Timing())
    empty = comfy.sample.fix_empty_latent_channels(sources.model, empty)
    noise = torch.cat([comfy.sample.prepare_noise(empty[:1], seed) for seed in seeds])
    settings = replace(settings, seed=seeds[0])
    found = sample(sources.model, noise, positive, negative, settings, callback)
    check_finite(found, "Sampling has failed: the latent")
    return found


def samples_alone(sampler_name: str) -> bool:
    """Whether an image depends on what is sampled with it, so that it must be sampled alone.

    That is where the sampler draws noise for the whole batch at each step, or, dpm_adaptive,
    chooses its steps by the whole batch.
    """
    function = comfy.samplers.sampler_object(sampler_name).sampler_function
    return (
        sampler_name == "dpm_adaptive" or "noise_sampler" in inspect.signature(function).parameters
    )


def empty_latents(mask: Tensor, width: int, height: int) -> Tensor:
    """Zeros (B, 4, h, w) for B masks; width and height in pixels, 0 for the mask's.

    Raises ValueError when a size is not a multiple of 8, or larger than any may be.
    """
    masks = mask_batch(mask)
    check_sampled_size(width or masks.shape[-1], height or masks.shape[-2])
    wrong = [
        f"{name} is {size}"
        for name, size in (("width", width), ("height", height))
        if size % DOWNSCALE
    ]
    height, width = height or masks.shape[-2], width or masks.shape[-1]
    if height % DOWNSCALE or width % DOWNSCALE:
        found = " and ".join(wrong) or f"The mask is {masks.shape[-1]}x{masks.shape[-2]}"
        nearest = " and ".join(
            f"{name} {max(DOWNSCALE, round(size / DOWNSCALE) * DOWNSCALE)}"
            for name, size in (("width", width), ("height", height))
        )
        raise ValueError(
            f"{found} pixels; images are made in multiples of {DOWNSCALE}. Set {nearest} (the "
            "mask is stretched to it by nearest neighbour), or the size that the model was "
            "trained at."
        )
    return torch.zeros(
        (len(masks), 4, height // DOWNSCALE, width // DOWNSCALE),
        device=comfy.model_management.intermediate_device(),
    )


def sample(
    model: Any,
    noise: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    settings: Settings,
    callback: Callback | None = None,
    known: Known | None = None,
) -> Tensor:
    """Noise (B, 4, h, w) -> latents of the same shape, on ComfyUI's intermediate device.

    After each step it calls `callback`, which by default shows progress and preview on the page;
    it stops when the user interrupts. `known`: an image of which only a part is sampled.
    """
    sigmas = noise_levels(model, settings)
    sampler = comfy.samplers.sampler_object(settings.sampler_name)
    published = settings.scheduler == PUBLISHED_SCHEDULER
    if published:
        # The published sampler starts from noise of variance 1 whatever its first timestep.
        sampler.max_denoise = lambda *_: True
    latents = comfy.sample.sample_custom(
        model, noise, settings.cfg, sampler, sigmas, positive, negative,
        known.latents if known else torch.zeros_like(noise),
        noise_mask=known.sampled if known else None,
        callback=callback or latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=settings.seed,
    )  # fmt: skip
    # ComfyUI's latents are x0 + sigma eps; the published ones are that / sqrt(1 + sigma^2).
    return latents / (1 + float(sigmas[-1]) ** 2) ** 0.5 if published else latents


def noise_levels(model: Any, settings: Settings) -> Tensor:
    """Noise levels (sigmas) of a run, falling: one for the start and one for each step.

    The number of steps may differ from `settings.steps`: it depends on the scheduler.
    """
    if settings.scheduler == PUBLISHED_SCHEDULER:
        return published_sigmas(model.get_model_object("model_sampling"), settings.steps)
    return comfy.samplers.KSampler(
        model, settings.steps, model.load_device, settings.sampler_name, settings.scheduler
    ).sigmas


def published_sigmas(sampling: Any, steps: int) -> Tensor:
    """Noise levels of the published DDIM, falling: timesteps ..., 1 + 2c, 1 + c, 1, then 0.

    c is 1000 // steps, so the number of timesteps is `steps` for divisors of 1000, but 31 for 30.
    With 1000 it is 999; the published code fails there, because timestep 1000 does not exist.
    """
    sigmas: Tensor = sampling.sigmas  # by timestep
    stride = max(len(sigmas) // steps, 1)
    timesteps = torch.arange(1, len(sigmas), stride).flip(0)
    return torch.cat([sigmas[timesteps], sigmas[:1]])
