"""Bootstrap intervals of means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
LEVEL = 0.95
FEWEST = 5  # images or groups that a bootstrap is still worth anything with


@dataclass(frozen=True)
class Interval:
    """A mean with the 95 % bootstrap interval; low and high are None where n is too small."""

    mean: float
    low: float | None
    high: float | None
    n: int


def bootstrap(values: np.ndarray, seed: int, groups: Sequence[str] | None = None) -> Interval:
    """Interval of the mean of values (repetitions, images), by drawing both with replacement.

    With `groups`, the group of each image, whole groups are drawn instead of images: what another
    set of patients could have shown.
    """
    rows, images = values.shape
    # An image is the sum and count of a group of its own.
    labels = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(labels.max()) + 1
    if count < FEWEST:
        return Interval(float(values.mean()), None, None, count)
    sums = np.stack([np.bincount(labels, row) for row in values])
    sizes = np.bincount(labels)
    rng = np.random.default_rng((seed, 3))
    # How often each is drawn: (draws, groups) and (draws, repetitions).
    chosen = rng.multinomial(count, np.full(count, 1 / count), DRAWS)
    repeated = rng.multinomial(rows, np.full(rows, 1 / rows), DRAWS)
    means = ((repeated @ sums) * chosen).sum(1) / (rows * (chosen @ sizes))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), count)
