"""Scores of pairs that an evaluation wrote, by the names that pairs have in a graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..common.scores import Score, read_scores
from ..common.text import shortened

NAMED = 5  # pairs in a message


def agreements(path: Path, stems: Sequence[str]) -> list[float]:
    """The agreement of each pair, from a scores.jsonl.

    A pair's score is that of the image whose path, without extension, is the stem or ends with
    "/" and the stem. Raises ValueError for pairs with no score, or with several.
    """
    by_name: dict[str, list[Score]] = defaultdict(list)
    for score in read_scores(path):
        parts = PurePosixPath(score.target).with_suffix("").parts
        for start in range(len(parts)):
            by_name["/".join(parts[start:])].append(score)
    missing = [stem for stem in stems if stem not in by_name]
    several = [stem for stem in stems if len(by_name.get(stem, ())) > 1]
    if missing:
        raise ValueError(
            f"{path}: no score for {len(missing)} of {len(stems)} pairs: {_names(missing)}. "
            "Connect 'stem' to the names that the images had when they were evaluated."
        )
    if several:
        raise ValueError(
            f"{path}: several scores for {_names(several)}: the file holds more than one set; "
            "evaluate the sets one by one."
        )
    return [by_name[stem][0].agreement for stem in stems]


def _names(stems: Sequence[str]) -> str:
    return ", ".join(map(shortened, stems[:NAMED])) + (", ..." if len(stems) > NAMED else "")
