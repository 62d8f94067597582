"""What a dataset's reader finds: one item a pair to be written, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...common.errors import MessageError

PROBLEMS_SHOWN = 30

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


class PrepareError(MessageError, ValueError):
    """Why nothing was written, meant for the owner of the folder."""


@dataclass(frozen=True)
class Item:
    """A pair to be written as NAME.png.

    masks: files whose union is the mask. group: what pairs of one origin share (patient, video,
    field of view). split: where the dataset's owners put it, None where they did not. crop: the
    part of the pictures to keep. digest: of the pair as the study had it, see `pair_digest`.
    """

    name: str
    image: Path
    masks: tuple[Path, ...]
    caption: str
    group: str
    split: str | None = None
    crop: Box | None = None
    digest: str | None = None


@dataclass
class Found:
    """The items of a folder, everything that is wrong with it, and what its owner should know."""

    items: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def report(problems: Sequence[str]) -> str:
    """The problems, one a line, the first ones only where there are many."""
    shown = "".join(f"\n  {problem}" for problem in problems[:PROBLEMS_SHOWN])
    more = len(problems) - PROBLEMS_SHOWN
    return shown + (f"\n  ... and {more} more" if more > 0 else "")
