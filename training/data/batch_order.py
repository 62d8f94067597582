"""Order and randomness as functions of (seed, step): a resumed run needs no other memory."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


def generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """A CPU generator of its own for each purpose and step (or epoch)."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class Share:
    """The rows of a global batch of `count` that one of several processes trains."""

    rows: slice | list[int]
    count: int

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Those of the batch's items."""
        rows = range(self.count)[self.rows] if isinstance(self.rows, slice) else self.rows
        return [items[row] for row in rows]

    @classmethod
    def all_of(cls, count: int) -> Share:
        return cls(slice(0, count), count)


class BatchOrder:
    """Which samples make the batch of a step.

    Batches are full and hold samples of one group only (images of one size). Each group is an
    endless sequence, its samples shuffled anew for every epoch and cut into batches; what is left
    of an epoch begins the group's next batch. In epoch e, counted from 0, a group of n samples
    makes floor((e + 1) n / batch size) - floor(e n / batch size) batches, which are mixed with
    those of the other groups. So at the end of an epoch the counts of any two samples differ by at
    most one, where no group is smaller than a batch. A smaller group has a batch only every few
    epochs, which holds each of its samples several times.
    """

    def __init__(self, groups: Sequence[Hashable], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.seed = seed
        members: dict[Hashable, list[int]] = defaultdict(list)
        for index, group in enumerate(groups):
            members[group].append(index)
        self._groups = [torch.tensor(group) for group in members.values()]
        self._samples = len(groups)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    @property
    def steps_per_epoch(self) -> float:
        """The mean over all epochs."""
        return self._samples / self.batch_size

    def batch(self, step: int) -> list[int]:
        """Indices of the samples of step 0, 1, ..."""
        epoch, position = self._locate(step)
        return self._epoch(epoch)[position]

    def counts(self, steps: int) -> list[int]:
        """How often each sample is drawn in the first `steps` steps."""
        epoch, position = self._locate(steps)
        counts = [0] * self._samples
        ends = [self._batches_before(epoch, group) * self.batch_size for group in self._groups]
        begun = []  # up to here all samples of a group were drawn equally often
        for group, end in zip(self._groups, ends, strict=True):
            rounds, rest = divmod(end, len(group))
            begun.append(end - rest)
            for index in group.tolist():
                counts[index] = rounds
        for indices in [*self._draw(begun, ends), *self._epoch(epoch)[:position]]:
            for index in indices:
                counts[index] += 1
        return counts

    def _batches_before(self, epoch: int, group: Tensor) -> int:
        """How many batches a group makes in the epochs before this one."""
        return epoch * len(group) // self.batch_size

    def _steps_before(self, epoch: int) -> int:
        return sum(self._batches_before(epoch, group) for group in self._groups)

    def _locate(self, step: int) -> tuple[int, int]:
        """The epoch of a step, and the step's number in it; an epoch may have no step at all."""
        # Steps before epoch e: at most e * steps_per_epoch, and less than a step a group fewer.
        last = (step + len(self._groups)) * self.batch_size // self._samples + 1
        epoch = bisect_right(range(last + 1), step, key=self._steps_before) - 1
        return epoch, step - self._steps_before(epoch)

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        size = self.batch_size
        starts, ends = (
            [self._batches_before(number, group) * size for group in self._groups]
            for number in (epoch, epoch + 1)
        )
        batches = [
            drawn[position : position + size]
            for drawn in self._draw(starts, ends)
            for position in range(0, len(drawn), size)
        ]
        _, random = self._shuffle(epoch)
        return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]

    def _draw(self, starts: Sequence[int], ends: Sequence[int]) -> list[list[int]]:
        """Of each group, the samples at positions start to end of its endless sequence."""
        spans = list(zip(self._groups, starts, ends, strict=True))
        drawn: list[list[int]] = [[] for _ in spans]
        first = min((start // len(group) for group, start, _ in spans), default=0)
        last = max((-(-end // len(group)) for group, _, end in spans), default=0)
        for epoch in range(first, last):
            shuffled, _ = self._shuffle(epoch)
            for indices, samples, (group, start, end) in zip(drawn, shuffled, spans, strict=True):
                passed = epoch * len(group)
                indices.extend(samples[max(start - passed, 0) : max(end - passed, 0)].tolist())
        return drawn

    def _shuffle(self, epoch: int) -> tuple[list[Tensor], torch.Generator]:
        """Every group in the order of an epoch, and the generator that goes on from there."""
        random = generator(self.seed, "order", epoch)
        return [
            group[torch.randperm(len(group), generator=random)] for group in self._groups
        ], random
