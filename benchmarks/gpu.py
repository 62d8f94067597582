"""SD 1.5 at full size and 384 px on a GPU: images per second, memory, share of the card's peak.

The published code trains in float32; its step in bf16 is measured as well, so that the gain of the
precision and that of the procedure can be told apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..training.method.networks import SiameseNetworks
from ..training.method.objective import AUGMENTATION_START, Batch
from .measure import interleave, machine, peak_memory
from .report import Result, Row, compare
from .workload import Scale, Step, random_batch, random_networks

# Dense bf16 in TFLOP/s from the data sheets, by what the card's name contains.
PEAK_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
PUBLISHED, PUBLISHED_HALF, OURS = "published, float32", "published, bf16", "ours, bf16"

Figures = dict[str, float]


def measure_gpu(scale: Scale, device: str = "cuda", compiled: bool = True) -> Result:
    """Each side alone on the card, one after the other. `device` "cpu" shows that it runs."""
    half = torch.bfloat16
    published = partial(Step, published=True)
    makers: dict[str, Callable[[SiameseNetworks], Step]] = {
        PUBLISHED: published,
        PUBLISHED_HALF: partial(published, half=half),
        OURS: partial(Step, half=half, channels_last=True),
    }
    sides = {
        name: _measure_side(maker, scale, device, compiled and name == OURS)
        for name, maker in makers.items()
    }
    facts = machine(device)
    name = facts.get("gpu", "")
    peak = next((tflops for card, tflops in PEAK_TFLOPS.items() if card in name), None)
    title = f"GPU: {scale.name}, batch {scale.batch}, {scale.pixels} px"
    return Result("gpu", title, facts, _rows(sides, peak), {"sides": sides, "peak_tflops": peak})


def _measure_side(
    maker: Callable[[SiameseNetworks], Step], scale: Scale, device: str, compiled: bool
) -> Figures:
    """Means over a whole run, whose first third has no augmentation."""
    batches = {"plain": random_batch(scale, 0, device)}
    batches["augmented"] = random_batch(scale, scale.batch // 5, device)
    nets = random_networks(scale.shape, device)
    step = maker(nets)
    flops = {name: _count_flops(step, batch) for name, batch in batches.items()}
    if compiled:
        nets.compile_parts()
    sides = {name: partial(step, batch) for name, batch in batches.items()}
    times = interleave(sides, scale.rounds, device)
    seconds = _over_a_run({name: statistics.median(values) for name, values in times.items()})
    memory = peak_memory(nets, partial(step.losses, batches["augmented"]))
    return {
        "images_per_second": scale.batch / seconds,
        "tflops": _over_a_run(flops) / seconds / 1e12,
        "bytes": memory,
    }


def _count_flops(step: Step, batch: Batch) -> float:
    """Floating-point operations of forward and backward: convolutions, products, attention."""
    with FlopCounterMode(display=False) as counter:
        step.losses(batch)
    step.optimizer.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def _over_a_run(values: Mapping[str, float]) -> float:
    return AUGMENTATION_START * values["plain"] + (1 - AUGMENTATION_START) * values["augmented"]


def _rows(sides: Mapping[str, Figures], peak: float | None) -> list[Row]:
    ours, rows = sides[OURS], []
    for name, target in ((PUBLISHED, "≥ 3"), (PUBLISHED_HALF, "")):
        speed, memory = sides[name]["images_per_second"], sides[name]["bytes"] / 2**30
        rows += [
            compare(f"images/s; {name}", speed, ours["images_per_second"], "", target),
            compare(f"peak memory above the weights; {name}", memory, ours["bytes"] / 2**30, "GiB"),
        ]
    if peak:
        share = {name: f"{figures['tflops'] / peak:.0%}" for name, figures in sides.items()}
        rows.append(
            Row(f"share of {peak:g} TFLOP/s", share[PUBLISHED_HALF], share[OURS], None, "≥ 40 %")
        )
    return rows
