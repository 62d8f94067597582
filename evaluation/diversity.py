"""Do the synthetic images differ from each other, also where their masks are the same?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import pairwise_distances

from .distances import nearest_other
from .features import Features
from .pair_sets import PairSet
from .settings import Settings

FEWEST = 12


def measure_diversity(
    features: Features, synthetic: Sequence[PairSet], settings: Settings
) -> list[dict[str, Any]]:
    """A row for the real training images, then one for each synthetic set.

    spread: mean distance of two images. within_mask: the same for two images of one mask.
    nearest: mean distance of an image to the nearest other of its set, in draws of n images, the
    same n in every row.
    """
    sets = [features.unseen, *synthetic]
    n = min(len(pairs) for pairs in sets)
    return [_row(features, pairs, n, settings) for pairs in sets]


def _row(features: Features, pairs: PairSet, n: int, settings: Settings) -> dict[str, Any]:
    vectors = features.of(pairs)
    row: dict[str, Any] = {"set": pairs.name, "n": n, "images": len(pairs)}
    if n < FEWEST:
        return {**row, "left_out": f"{n} images in the smallest set; at least {FEWEST} are needed"}
    rng = np.random.default_rng((settings.seed, 6))
    draws = [vectors[rng.choice(len(vectors), n, replace=False)] for _ in range(settings.draws)]
    row["spread"] = float(np.mean([_mean_distance(rows) for rows in draws]))
    row["nearest"] = float(np.mean([nearest_other(rows).mean() for rows in draws]))
    within = _within_masks(pairs, vectors)
    row["within_mask"] = float(np.mean(within)) if within else None
    row["masks_repeated"] = len(within)
    return row


def _within_masks(pairs: PairSet, vectors: np.ndarray) -> list[float]:
    """Mean distance of two images, for each mask that several images were made from."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(pairs.mask_hashes):
        members[content].append(index)
    return [_mean_distance(vectors[same]) for same in members.values() if len(same) > 1]


def _mean_distance(rows: np.ndarray) -> float:
    """Between two different rows."""
    return float(pairwise_distances(rows).sum() / (len(rows) * (len(rows) - 1)))
