"""Puts what can be computed at once into batches, without keeping more than a few of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
WAITING = 2  # batches' worth of items that may wait for others like them


class SizeBatches(Generic[Item]):
    """Batches of items with equal keys, such as image sizes; at most `size` items in each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._waiting: dict[Hashable, list[Item]] = {}

    def add(self, key: Hashable, item: Item) -> Iterator[list[Item]]:
        """The batch that is full with it, or the oldest one, where many keys wait."""
        group = self._waiting.setdefault(key, [])
        group.append(item)
        if len(group) >= self.size:
            yield self._waiting.pop(key)
        elif sum(map(len, self._waiting.values())) > WAITING * self.size:
            yield self._waiting.pop(next(iter(self._waiting)))

    def rest(self) -> Iterator[list[Item]]:
        while self._waiting:
            yield self._waiting.pop(next(iter(self._waiting)))
