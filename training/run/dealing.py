"""Which process trains which samples of the global batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..method.objective import AUGMENTATION_MAX_TIMESTEP


def deal_rows(timesteps: Tensor, processes: int) -> list[Tensor]:
    """Indices of each process's samples, in ascending order; as many for each.

    timesteps: (B,) of the global batch. Samples with t <= 200, which are augmented and take longer,
    are spread evenly: the number of two processes differs by one at most. For one process nothing
    changes.
    """
    low = timesteps <= AUGMENTATION_MAX_TIMESTEP
    # All that are augmented first, then dealt like cards.
    order = torch.argsort(low, descending=True, stable=True)
    return [order[number::processes].sort().values for number in range(processes)]
