"""Epochs as steps: what is counted in epochs at the command line, the loop counts in steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..config import TrainConfig


def count_in_steps(config: TrainConfig, pairs: int, processes: int) -> TrainConfig:
    """The configuration with its epochs turned into steps; an epoch shows `pairs` samples.

    As in sd-scripts epochs win where steps are given too. The last step of a run finishes its last
    epoch; an interval is the nearest whole number of steps.
    """
    batch = config.train_batch_size * config.gradient_accumulation_steps * processes
    steps_per_epoch = pairs / batch

    def interval(epochs: int) -> int:
        return max(1, round(epochs * steps_per_epoch))

    changed: dict[str, Any] = {}
    if config.max_train_epochs is not None:
        changed["max_train_steps"] = math.ceil(config.max_train_epochs * steps_per_epoch)
    if config.save_every_n_epochs is not None:
        changed["save_every_n_steps"] = interval(config.save_every_n_epochs)
    if config.sample_every_n_epochs is not None:
        changed["sample_every_n_steps"] = interval(config.sample_every_n_epochs)
    return replace(config, **changed) if changed else config
