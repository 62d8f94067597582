"""Does a synthetic image show what its mask says? Asked of segmenters trained on real pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from .intervals import bootstrap
from .overlap import dice
from .pair_sets import PairSet
from .segmenters import BATCH, Segmenter, predict


@dataclass(frozen=True)
class Judgement:
    """agreement: Dice of each judge with each pair's mask (judges, N). disagreement: (N,), 1 minus
    the mean Dice between any two judges; 0 where all see the same, NaN with a single judge."""

    agreement: np.ndarray
    disagreement: np.ndarray


def judge(judges: Sequence[Segmenter], images: np.ndarray, masks: np.ndarray) -> Judgement:
    """What segmenters see in images (N, H, W, 3), against masks (N, H, W)."""
    agreement, disagreement = [], []
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        seen = [predict(segmenter, images[part]) for segmenter in judges]
        agreement.append(np.stack([dice(one, masks[part]) for one in seen]))
        pairs = [dice(first, second) for first, second in combinations(seen, 2)]
        unknown = np.full(len(masks[part]), np.nan)
        disagreement.append(1 - np.mean(pairs, axis=0) if pairs else unknown)
    return Judgement(np.concatenate(agreement, axis=1), np.concatenate(disagreement))


def shuffled(count: int, seed: int) -> np.ndarray:
    """A random order in which nothing stays in its place; count must be at least 2."""
    rng = np.random.default_rng((seed, 4))
    order, place = rng.permutation(count), np.empty(count, dtype=int)
    place[order] = np.roll(order, 1)  # one cycle through all
    return place


def measure_alignment(
    judges: Sequence[Segmenter], real_test: PairSet, synthetic: Sequence[PairSet], seed: int
) -> tuple[list[dict[str, Any]], dict[str, Judgement]]:
    """Rows for the report, and each synthetic set's judgement.

    Each set is shown with its own masks and with its masks shuffled (floor); the real test pairs'
    row is the ceiling.
    """
    rows, judgements = [], {}
    for pairs in (real_test, *synthetic):
        found = judge(judges, pairs.images, pairs.masks)
        # Images of one mask are no independent witnesses, and neither are a patient's.
        units = pairs.units if pairs is real_test else pairs.mask_hashes
        row: dict[str, Any] = {
            "set": pairs.name,
            "real": pairs is real_test,
            "dice": asdict(bootstrap(found.agreement.mean(0)[None], seed, units)),
            "shuffled": None,
        }
        if len(pairs) > 1:
            others = judge(judges, pairs.images, pairs.masks[shuffled(len(pairs), seed)])
            row["shuffled"] = asdict(bootstrap(others.agreement.mean(0)[None], seed, units))
        rows.append(row)
        if pairs is not real_test:
            judgements[pairs.name] = found
    return rows, judgements
