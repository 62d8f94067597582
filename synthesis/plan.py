"""All pairs that a run is to make: a list by rule, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from ..common.items import item_name, item_seed
from .masks import Mask, MaskSource


@dataclass(frozen=True)
class Item:
    """An image to make: number `index`, from 1, of a mask."""

    stem: str
    index: int
    caption: str
    mask: Mask
    number: int | None = None  # of the mask, by which the pair is called if it is to tell nothing

    @property
    def name(self) -> str:
        return item_name(told_stem(self.stem, self.number), self.index)

    @property
    def told_caption(self) -> str:
        """As it is written beside the pair."""
        return self.caption if self.number is None else ""

    def seed(self, seed: int) -> int:
        """The image's own seed."""
        return item_seed(seed, self.stem, self.index)


@dataclass(frozen=True)
class Plan:
    """`images_per_mask` images of each mask, numbered from 0, those of the first mask first.

    anonymous: pairs are called by their mask's number, and their captions are not written.
    """

    masks: MaskSource
    images_per_mask: int
    anonymous: bool = False

    def __len__(self) -> int:
        return len(self.masks) * self.images_per_mask

    def item(self, number: int) -> Item:
        mask, index = divmod(number, self.images_per_mask)
        source = self.masks
        known = source.stem(mask), index + 1, source.caption(mask), source.mask(mask)
        return Item(*known, self._told_number(mask))

    def name(self, number: int) -> str:
        mask, index = divmod(number, self.images_per_mask)
        return item_name(told_stem(self.masks.stem(mask), self._told_number(mask)), index + 1)

    def _told_number(self, mask: int) -> int | None:
        return mask + 1 if self.anonymous else None

    def items(self) -> Iterator[Item]:
        return map(self.item, range(len(self)))

    def fingerprint(self) -> str:
        """Changes with the names and captions of the pairs, and with their number."""
        text = f"{self.masks.fingerprint()} {self.images_per_mask}"
        return hashlib.sha256(text.encode()).hexdigest()


def told_stem(stem: str, number: int | None) -> str:
    """What a mask's pairs are called by."""
    return stem if number is None else f"mask_{number}"
