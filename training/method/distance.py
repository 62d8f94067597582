"""How an output is compared with its target: the square as published, or sd-scripts' losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .noise_schedule import TIMESTEPS, NoiseSchedule

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]  # output, target, timesteps (B,) -> per value


def squared(output: Tensor, target: Tensor, _timesteps: Tensor) -> Tensor:
    """(B, ...) -> (B, ...); what the published code does."""
    return (output - target) ** 2


def absolute(output: Tensor, target: Tensor, _timesteps: Tensor) -> Tensor:
    return (output - target).abs()


@dataclass(frozen=True)
class Huber:
    """Pseudo-Huber: square near zero, linear from a threshold c on, which the timestep decides.

    loss: its name in sd-scripts, huber: 2 c (sqrt(d^2 + c^2) - c), or smooth_l1: the same
    without the factor c. schedule: constant: c = huber_c huber_scale; exponential: huber_scale
    huber_c^(t / 1000); snr: huber_c + (1 - huber_c) / (1 + s_t / a_t)^2.
    """

    loss: str
    schedule: str
    huber_c: float
    huber_scale: float
    noise_schedule: NoiseSchedule

    def __call__(self, output: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        c = self.threshold(timesteps).to(output.dtype).view(-1, *[1] * (output.ndim - 1))
        distance = 2 * (torch.sqrt((output - target) ** 2 + c**2) - c)
        return c * distance if self.loss == "huber" else distance

    def threshold(self, timesteps: Tensor) -> Tensor:
        """c of each sample (B,)."""
        if self.schedule == "constant":
            return torch.full_like(timesteps, self.huber_c * self.huber_scale, dtype=torch.float32)
        if self.schedule == "exponential":
            return torch.exp(math.log(self.huber_c) / TIMESTEPS * timesteps) * self.huber_scale
        ratio = self.noise_schedule.noise_to_signal(timesteps)
        return (1 - self.huber_c) / (1 + ratio) ** 2 + self.huber_c


def make_distance(
    loss: str, schedule: str, huber_c: float, huber_scale: float, noise_schedule: NoiseSchedule
) -> Distance:
    """The distance by sd-scripts' names of --loss_type and --huber_schedule."""
    if loss == "l2":
        return squared
    if loss == "l1":
        return absolute
    return Huber(loss, schedule, huber_c, huber_scale, noise_schedule)
