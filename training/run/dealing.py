"""Which process trains which samples of the global batch."""

from __future__ import annotations

from functools import lru_cache

import torch
from accelerate import Accelerator
from torch import Tensor

from ..config import TrainConfig
from ..data.batch_order import BatchOrder, Share
from ..data.batches import TrainingData
from ..method.objective import AUGMENTATION_MAX_TIMESTEP

REMEMBERED = 64  # steps; more than are read ahead


class Dealing:
    """This process's share of each step."""

    def __init__(
        self, config: TrainConfig, data: TrainingData, order: BatchOrder, accelerator: Accelerator
    ) -> None:
        self._seed, self._data, self._order = config.seed, data, order
        self._process, self._processes = accelerator.process_index, accelerator.num_processes
        self.share = lru_cache(REMEMBERED)(self._share)

    def _share(self, step: int) -> Share:
        """From the timesteps that are drawn for all; those of a host's own options may differ."""
        indices = self._order.batch(step)
        if self._processes == 1:
            return Share.all_of(len(indices))
        timesteps = self._data.timesteps(indices, self._seed, step)
        return Share(deal_rows(timesteps, self._processes)[self._process], len(indices))


def deal_rows(timesteps: Tensor, processes: int) -> list[list[int]]:
    """Indices of each process's samples, in ascending order; as many for each.

    timesteps: (B,) of the global batch. Samples with t <= 200, which are augmented and take longer,
    are spread evenly: the number of two processes differs by one at most.
    """
    low = timesteps <= AUGMENTATION_MAX_TIMESTEP
    # All that are augmented first, then dealt like cards.
    order = torch.argsort(low, descending=True, stable=True).tolist()
    return [sorted(order[number::processes]) for number in range(processes)]
