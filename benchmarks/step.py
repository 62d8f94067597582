"""One training step on the CPU: time, memory, operations and passes, ours and the published way.

Latents and text are given to both. A step is forward, backward and AdamW; that of the trainer also
reads the data and logs.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from ..training.method.networks import SiameseNetworks
from ..training.method.noise_schedule import TIMESTEPS
from ..training.method.objective import AUGMENTATION_MAX_TIMESTEP, Batch, Losses
from .measure import (
    count_forwards,
    count_launches,
    interleave,
    machine,
    median_ratio,
    peak_memory,
    step_memory,
)
from .report import Result, Row, compare
from .trainer import trainer_steps
from .workload import Scale, Step, random_batch, random_networks

SHARE = (AUGMENTATION_MAX_TIMESTEP + 1) / TIMESTEPS  # of samples that are augmented
PUBLISHED_BATCH = 6  # per GPU, on 8 of them
SUFFIXES = {"": "", "+a": " with augmentation"}

Seconds = Mapping[str, Sequence[float]]
Maker = Callable[[SiameseNetworks], Step]

MAKERS: dict[str, Maker] = {
    "published": partial(Step, published=True),
    "ours": Step,
    "fast": partial(Step, half=torch.bfloat16),
}


def measure_step(scale: Scale) -> Result:
    """Every comparison of the step. One in five samples of a batch is augmented."""
    batches = {"": random_batch(scale, 0), "+a": random_batch(scale, scale.batch // 5)}
    nets = random_networks(scale.shape)
    counts = {
        name + suffix: _count(MAKERS[name], nets, batch)
        for suffix, batch in batches.items()
        for name in ("published", "ours")
    }
    memory = {name: peak for name, (peak, _) in counts.items()}
    forwards = {name: passes for name, (_, passes) in counts.items()}
    everything = {
        name + suffix: step_memory(partial(_make, name, scale, batch), "cpu")
        for suffix, batch in batches.items()
        for name in ("published", "ours")
    }
    steps = {name: maker(copy.deepcopy(nets)) for name, maker in MAKERS.items()}
    deviation = max(_deviation(steps, batch) for batch in batches.values())
    sides: dict[str, Callable[[], object]] = {
        name + suffix: partial(step, batch)
        for suffix, batch in batches.items()
        for name, step in steps.items()
    }
    launches = {name: count_launches(side) for name, side in sides.items()}
    with trainer_steps(scale) as trainer_step:
        for suffix, augmented in (("", 0), ("+a", scale.batch // 5)):
            sides["trainer" + suffix] = partial(trainer_step, augmented)
        seconds = interleave(sides, scale.rounds)
    loss = Row("change of the loss, our fast settings", "", f"{deviation:.1e}", None, "≤ 1e-3")
    rows = [
        *_time_rows(seconds),
        loss,
        *_memory_rows("peak memory above the weights", memory, "≤ 0.65"),
        *_memory_rows("peak memory, weights and optimizer counted in", everything),
        *_forward_rows(forwards),
        *_launch_rows(launches),
    ]
    raw = {
        "seconds": seconds,
        "bytes": memory,
        "bytes_in_all": everything,
        "forwards": forwards,
        "launches": launches,
        "loss_deviation": deviation,
    }
    title = f"One step: {scale.name}, batch {scale.batch}, {scale.pixels} px"
    return Result("step", title, machine(), rows, raw)


def _make(name: str, scale: Scale, batch: Batch) -> Callable[[], object]:
    return partial(MAKERS[name](random_networks(scale.shape)), batch)


def _count(maker: Maker, nets: SiameseNetworks, batch: Batch) -> tuple[int, dict[str, float]]:
    """Peak memory, and forward passes of C, E and D, a part of the batch counting as that part."""
    nets.zero_grad(set_to_none=True)
    with count_forwards(nets) as samples:
        peak = peak_memory(nets, partial(maker(nets).losses, batch))
    nets.zero_grad(set_to_none=True)
    return peak, {name: count / len(batch.timesteps) for name, count in samples.items()}


def _deviation(steps: Mapping[str, Step], batch: Batch) -> float:
    """Relative difference that the fast settings make to the total loss of the same weights."""
    totals = {name: _total(steps[name].losses(batch)) for name in ("ours", "fast")}
    for step in steps.values():
        step.optimizer.zero_grad(set_to_none=True)
    return abs(totals["fast"] / totals["ours"] - 1)


def _total(losses: Losses) -> float:
    return torch.stack([*losses.values()]).sum(0).mean().item()


def _time_rows(seconds: Seconds) -> list[Row]:
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = []
    for side, name, targets in (
        ("ours", "same settings", ("≤ 0.82", "≤ 0.66")),
        ("fast", "our fast settings", ("≤ 0.65", "≤ 0.50")),
    ):
        for (suffix, what), target in zip(SUFFIXES.items(), targets, strict=True):
            ratio = median_ratio(seconds[side + suffix], seconds["published" + suffix])
            pair = median["published" + suffix], median[side + suffix]
            rows.append(compare(f"time{what}, {name}", *pair, "s", target, ratio))
    for suffix, what in SUFFIXES.items():
        ratio = median_ratio(seconds["trainer" + suffix], seconds["published" + suffix])
        pair = median["published" + suffix], median["trainer" + suffix]
        name = f"time{what}, ours with data and logging (Trainer.train_step)"
        rows.append(compare(name, *pair, "s", "", ratio))
    drawn = f"time, timesteps drawn freely, {PUBLISHED_BATCH} per device, same settings"
    return [*rows, compare(drawn, *_expected_seconds(median), "s")]


def _expected_seconds(median: Mapping[str, float]) -> tuple[float, float]:
    """Published and ours, when the timesteps of PUBLISHED_BATCH samples are drawn freely.

    The published way then augments all samples when any has t <= 200, ours always its share.
    """
    any_counts = 1 - (1 - SHARE) ** PUBLISHED_BATCH
    extra = {name: median[f"{name}+a"] - median[name] for name in ("published", "ours")}
    published = median["published"] + any_counts * extra["published"]
    return published, median["ours"] + extra["ours"]


def _memory_rows(name: str, memory: Mapping[str, int], target: str = "") -> list[Row]:
    return [
        compare(
            name + what,
            memory["published" + suffix] / 2**20,
            memory["ours" + suffix] / 2**20,
            "MiB",
            target,
        )
        for suffix, what in SUFFIXES.items()
    ]


def _launch_rows(launches: Mapping[str, int]) -> list[Row]:
    return [
        compare(f"operations{what}", launches["published" + suffix], launches["ours" + suffix], "")
        for suffix, what in SUFFIXES.items()
    ]


def _forward_rows(forwards: Mapping[str, Mapping[str, float]]) -> list[Row]:
    def text(counts: Mapping[str, float]) -> str:
        return " / ".join(f"{counts[name]:.3g}" for name in "CED")

    return [
        Row(
            f"forward passes of C / E / D{what}",
            text(forwards["published" + suffix]),
            text(forwards["ours" + suffix]),
        )
        for suffix, what in SUFFIXES.items()
    ]
