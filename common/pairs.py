"""Image-mask pairs, and the one report of what is wrong with them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import MessageError
from .text import one_line

PROBLEMS_SHOWN = 50


class DatasetError(MessageError, ValueError):
    """One report of everything that is wrong with a dataset, meant for its owner."""

    def __init__(self, source: object, problems: Sequence[str]) -> None:
        shown = "".join(f"\n  {one_line(problem)}" for problem in problems[:PROBLEMS_SHOWN])
        more = len(problems) - PROBLEMS_SHOWN
        rest = f"\n  ... and {more} more" if more > 0 else ""
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(f"{source}: {count} in this dataset; nothing was started.{shown}{rest}")
        self.source, self.problems = source, list(problems)

    def __reduce__(self) -> tuple[type[DatasetError], tuple[object, list[str]]]:
        return DatasetError, (self.source, self.problems)


@dataclass(frozen=True)
class Pair:
    """An image, its mask and its caption.

    where: begins messages about the pair ("line 3: "). group: what pairs of one origin share
    (patient, video, field of view), so that no split parts them; None where it is not known.
    settings: what training does with it in a way of its own (training/data/pair_settings.py).
    """

    image: Path
    mask: Path
    caption: str
    where: str = ""
    group: str | None = None
    settings: Hashable = None

    @property
    def stem(self) -> str:
        return self.image.stem


@dataclass
class Listing:
    """The pairs found, what is wrong, and what the owner should know."""

    pairs: list[Pair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __iadd__(self, other: Listing) -> Listing:
        self.pairs += other.pairs
        self.problems += other.problems
        self.notes += other.notes
        return self
