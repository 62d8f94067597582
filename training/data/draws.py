"""What is drawn at random for the rows of a step: noise, timesteps, which captions are dropped.

All of it depends on seed, step and row alone, so a row is the same whatever process trains it. And
a process draws no more noise the larger the global batch is: rows from TOGETHER on have a sequence
of numbers of their own each. The rows before are drawn from one, as in all runs so far.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..method.noise_schedule import TIMESTEPS
from .batch_order import Share, generator

TOGETHER = 48  # rows: the published global batch

Shape = tuple[int, int, int]  # of a row's latents


def draw_numbers(seed: int, step: int, shape: Shape, count: int) -> tuple[Tensor, Tensor]:
    """Of all `count` rows: uniform numbers (B,) in 0..1, and timesteps (B,) in 0..999."""
    uniform, _, timesteps = _draw_together(seed, step, shape, min(count, TOGETHER))
    random, others = generator(seed, "other rows", step), max(0, count - TOGETHER)
    return (
        torch.cat([uniform, torch.rand(others, generator=random)]),
        torch.cat([timesteps, torch.randint(TIMESTEPS, (others,), generator=random)]),
    )


def draw_noise(seed: int, step: int, shape: Shape, share: Share) -> tuple[Tensor, Tensor]:
    """Of the share's rows, two tensors (b, 4, h, w) of normal numbers."""
    _, together, _ = _draw_together(seed, step, shape, min(share.count, TOGETHER))
    rows = rows_of(share, together.transpose(0, 1), partial(_draw_alone, seed, step, shape))
    first, second = rows.transpose(0, 1).contiguous()
    return first, second


def rows_of(share: Share, together: Tensor, alone: Callable[[int], Tensor]) -> Tensor:
    """The share's rows (b, ...): of those drawn together (B, ...), and from TOGETHER on alone."""
    rows = share.of(range(share.count))
    return torch.stack([together[row] if row < TOGETHER else alone(row) for row in rows])


@lru_cache(2)  # asked for more than once a step
def _draw_together(seed: int, step: int, shape: Shape, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform numbers (B,), normal ones (2, B, 4, h, w) and timesteps (B,), in this order."""
    random = generator(seed, "batch", step)
    uniform = torch.rand(count, generator=random)
    normal = torch.stack([torch.randn((count, *shape), generator=random) for _ in range(2)])
    return uniform, normal, torch.randint(TIMESTEPS, (count,), generator=random)


def _draw_alone(seed: int, step: int, shape: Shape, row: int) -> Tensor:
    """Normal numbers (2, 4, h, w)."""
    return torch.randn((2, *shape), generator=generator(seed, f"row {row}", step))
