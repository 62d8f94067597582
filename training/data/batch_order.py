"""Order and randomness as functions of (seed, step): a resumed run needs no other memory."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch


def generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """A CPU generator of its own for each purpose and step (or epoch)."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class BatchOrder:
    """Which samples make the batch of a step.

    Every epoch shuffles anew. Batches are full and hold samples of one group only (pictures of one
    size); a group that does not divide evenly is filled up from its own beginning.
    """

    def __init__(self, groups: Sequence[Hashable], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.seed = seed
        members: dict[Hashable, list[int]] = defaultdict(list)
        for index, group in enumerate(groups):
            members[group].append(index)
        self._groups = list(members.values())
        self.batches_per_epoch = sum(-(-len(group) // batch_size) for group in self._groups)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def batch(self, step: int) -> list[int]:
        """Indices of the samples of step 0, 1, ..."""
        epoch, position = divmod(step, self.batches_per_epoch)
        return self._epoch(epoch)[position]

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        random = generator(self.seed, "order", epoch)
        batches = []
        for group in self._groups:
            shuffled = [group[i] for i in torch.randperm(len(group), generator=random).tolist()]
            for start in range(0, len(shuffled), self.batch_size):
                wanted = range(start, start + self.batch_size)
                batches.append([shuffled[i % len(shuffled)] for i in wanted])
        return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]
