"""--ip_noise_gamma: further noise on the networks' input, as sd-scripts adds it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..config import TrainConfig
from ..data.batch_order import Share, generator
from ..data.draws import TOGETHER, rows_of
from ..method.objective import Batch


def add_input_noise(config: TrainConfig, batch: Batch, share: Share, step: int) -> Batch:
    """The share of a step with that noise, which depends on (seed, step, row) alone; on the CPU."""
    if not config.ip_noise_gamma:
        return batch
    random = generator(config.seed, "input noise", step)
    strength = torch.tensor(config.ip_noise_gamma)
    if config.ip_noise_gamma_random_strength:
        strength = strength * torch.rand((), generator=random)
    shape = batch.noise.shape[1:]
    together = torch.randn((min(share.count, TOGETHER), *shape), generator=random)

    def alone(row: int) -> Tensor:
        own = generator(config.seed, f"input noise of row {row}", step)
        return torch.randn(shape, generator=own)

    return replace(batch, input_noise=strength * rows_of(share, together, alone))
