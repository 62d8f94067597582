"""Making pairs without a page: eight images at once, one by one, and by the published procedure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..models.recipe import RECIPES
from ..training.method.networks import SiameseNetworks
from ..training.method.noise_schedule import TIMESTEPS, NoiseSchedule
from ..training.method.objective import mask_hint
from ..training.method.sampling import Conditions, ddim_scheduler, denoise
from .measure import interleave, machine, median_ratio
from .report import Result, Row
from .workload import Scale, random_batch, random_networks

IMAGES = 8
STEPS = 10  # of 50: each costs the same
CFG = 9.0


def measure_synthesis(scale: Scale, tiny: bool = False) -> Result:
    """Images per second of each side in turn."""
    steps = 2 if tiny else STEPS
    nets = random_networks(scale.shape).eval()
    batch = random_batch(replace(scale, batch=IMAGES), 0)
    given = Conditions(batch.mask, batch.text, torch.randn_like(batch.text), batch.noise)
    sides = {
        "published": partial(_published, nets, given, steps),
        "one": partial(_ours, nets, given, steps, 1),
        "eight": partial(_ours, nets, given, steps, IMAGES),
    }
    seconds = interleave(sides, scale.rounds)
    deviation = float((sides["eight"]() - sides["published"]()).norm() / given.noise.norm())
    rows = [
        _speed_row("the published procedure", seconds["published"], seconds["eight"], "≤ 0.90"),
        _speed_row("one by one", seconds["one"], seconds["eight"]),
        Row("change of the latents", "", f"{deviation:.1e}", None, "≤ 5e-4"),
    ]
    raw = {"seconds": seconds, "latents_deviation": deviation, "steps": steps}
    title = f"Synthesis, {IMAGES} images of {scale.pixels} px, {steps} steps: {scale.name}"
    return Result("synthesis", title, machine(), rows, raw, baseline="the other")


def _speed_row(other: str, theirs: Sequence[float], ours: Sequence[float], target: str = "") -> Row:
    published, mine = (
        f"{IMAGES / statistics.median(each):.3g} images/s" for each in (theirs, ours)
    )
    ratio = median_ratio(ours, theirs)
    return Row(f"time of a batch of {IMAGES}, against {other}", published, mine, ratio, target)


@torch.inference_mode()
def _ours(nets: SiameseNetworks, given: Conditions, steps: int, at_once: int) -> Tensor:
    """Latents, made `at_once` at a time, as SiameseModel does."""
    found, recipe = [], RECIPES["published"]
    for start in range(0, IMAGES, at_once):
        rows = slice(start, start + at_once)
        part = Conditions(
            given.mask[rows], given.text[rows], given.empty_text[rows], given.noise[rows]
        )
        features = nets.hint_features(mask_hint(recipe, part.mask))
        scheduler = ddim_scheduler("epsilon", steps)
        found.append(denoise(nets, recipe, part, [features], scheduler, CFG))
    return torch.cat(found)


@torch.inference_mode()
def _published(nets: SiameseNetworks, given: Conditions, steps: int) -> Tensor:
    """Latents, one by one: the whole model twice at each step, hint network included."""
    schedule = NoiseSchedule()
    timesteps = list(range(1, TIMESTEPS, TIMESTEPS // steps))
    found = []
    for row in range(IMAGES):
        mask, x = given.mask[row : row + 1].expand(-1, 3, -1, -1), given.noise[row : row + 1]
        for timestep, previous in zip(timesteps[::-1], [*timesteps[-2::-1], 0], strict=True):
            now, then = torch.full((1,), timestep), torch.full((1,), previous)
            with_text, without = (
                nets.decode(nets.encode(x, now, text), text, nets.control(x, now, text, mask))
                for text in (given.text[row : row + 1], given.empty_text[row : row + 1])
            )
            noise = without + CFG * (with_text - without)
            x = schedule.add_noise(schedule.predict_latents(x, noise, now), noise, then)
        found.append(x)
    return torch.cat(found)
