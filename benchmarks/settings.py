"""What each setting of the trainer changes, against its defaults: float32, AdamW, not compiled.

A setting is measured beside the defaults, the two taking turns, on the same networks and batch.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from ..models.recipe import RECIPES
from ..training.config import TrainConfig
from ..training.errors import ConfigError
from ..training.hosts.optimizers import make_optimizer
from ..training.method.noise_schedule import NoiseSchedule
from ..training.method.objective import Batch, Objective
from ..training.run.speed import HALF, apply_settings
from .measure import interleave, machine, median_ratio, step_memory
from .report import Result
from .workload import LEARNING_RATE, MAX_STEPS, STEP, Scale, random_batch, random_networks

PASSES = 5
COLUMNS = ("setting", "time", "peak memory", "change of the loss")
Flags = Mapping[str, Any]
Figures = dict[str, Any]

SETTINGS: tuple[Flags, ...] = (
    {"mixed_precision": "bf16"},
    {"mixed_precision": "fp16"},
    {"gradient_checkpointing": True},
    {"gradient_accumulation_steps": PASSES},
    {"channels_last": True},
    {"torch_compile": True},
    {"xformers": True},
    {"optimizer_type": "AdamW8bit"},
    {"optimizer_type": "Lion"},
    {"optimizer_type": "Adafactor"},
    {"optimizer_type": "SGDNesterov"},
    {"ema_decay": 0.999},
)
# Flags or their values. Compiling for a CPU takes longer than this whole benchmark.
GPU_ONLY = {"fp16", "xformers", "AdamW8bit", "torch_compile"}


class TrainerStep:
    """One optimizer step of the trainer with some flags, on random networks."""

    def __init__(self, flags: Flags, scale: Scale, device: str) -> None:
        passes = flags.get("gradient_accumulation_steps", 1)
        config = TrainConfig(
            pretrained_model_name_or_path=Path(),
            output_dir=Path(),
            train_batch_size=scale.batch // passes,
            **flags,
        )
        self.config, self.device = config, device
        self.nets = random_networks(scale.shape, device)
        apply_settings(config, self.nets)
        schedule = NoiseSchedule("epsilon", device)
        self.objective = Objective(self.nets, schedule, RECIPES["published"], MAX_STEPS)
        self.parameters = [p for p in self.nets.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(config.optimizer_type, (), self.parameters, LEARNING_RATE)
        self.ema = EMAModel(self.parameters, config.ema_decay) if config.ema_decay else None
        self.half = HALF.get(config.mixed_precision)
        self.scaler = GradScaler(device, enabled=self.half is torch.float16)

    def __call__(self, batch: Batch) -> float:
        """Forward, backward and update; the total loss before the update."""
        count, size, total = len(batch.timesteps), self.config.train_batch_size, 0.0

        def backward(terms: Tensor) -> None:
            self.scaler.scale(terms.sum() / count).backward()

        for start in range(0, count, size):
            with torch.autocast(self.device, self.half, enabled=self.half is not None):
                losses = self.objective.losses(batch.rows(start, start + size), STEP, backward)
            total += sum(float(terms.float().sum()) for terms in losses.values()) / count
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.step(self.parameters)
        return total


def measure_settings(scale: Scale, device: str = "cpu") -> Result:
    """One in five samples is augmented."""
    batch = random_batch(scale, scale.batch // 5, device)
    memory = step_memory(partial(_make, {}, scale, device, batch), device)
    default = _make({}, scale, device, batch)
    defaults = {"loss": default(), "bytes": memory}
    measured: dict[str, Figures] = {}
    refused: dict[str, str] = {}
    for flags in SETTINGS:
        try:
            _check(flags, device)
            measured[_name(flags)] = _measure(flags, scale, device, batch, default)
        except ConfigError as error:
            refused[_name(flags)] = str(error)
    rows = [
        *_rows(defaults, measured),
        *((f"`{name}`", f"not measured: {why}", "", "") for name, why in refused.items()),
    ]
    raw = {"defaults": defaults, "settings": measured, "not_measured": refused}
    title = f"Settings of the trainer: {scale.name}, batch {scale.batch}, {scale.pixels} px"
    return Result("settings", title, machine(device), rows, raw, columns=COLUMNS)


def _make(flags: Flags, scale: Scale, device: str, batch: Batch) -> Callable[[], float]:
    return partial(TrainerStep(flags, scale, device), batch)


def _check(flags: Flags, device: str) -> None:
    """Raise ConfigError where a setting cannot be measured."""
    if device == "cpu" and {*flags, *flags.values()} & GPU_ONLY:
        raise ConfigError("on a GPU only")


def _measure(
    flags: Flags, scale: Scale, device: str, batch: Batch, default: Callable[[], float]
) -> Figures:
    """Total loss of the starting weights, most bytes alive, and seconds beside the defaults."""
    make = partial(_make, flags, scale, device, batch)
    memory = step_memory(make, device)
    step = make()
    loss = step()
    seconds = interleave({"defaults": default, "setting": step}, scale.rounds, device)
    return {"loss": loss, "bytes": memory, "seconds": seconds}


def _rows(defaults: Figures, measured: Mapping[str, Figures]) -> list[Sequence[str]]:
    """Ratios to the defaults, whose own row has the median of all their rounds."""
    median = statistics.median(s for f in measured.values() for s in f["seconds"]["defaults"])
    rows: list[Sequence[str]] = []
    rows.append(("defaults", f"{median:.3g} s", f"{defaults['bytes'] / 2**20:.0f} MiB", ""))
    for name, figures in measured.items():
        time = median_ratio(figures["seconds"]["setting"], figures["seconds"]["defaults"])
        memory = figures["bytes"] / defaults["bytes"]
        change = abs(figures["loss"] / defaults["loss"] - 1)
        cells = (f"**{time:.2f}**", f"**{memory:.2f}**", f"{change:.1e}" if change else "0")
        rows.append((f"`{name}`", *cells))
    return rows


def _name(flags: Flags) -> str:
    return " ".join(f"--{k}" if v is True else f"--{k} {v}" for k, v in flags.items())
