"""What a cell is scored by: alignment and diversity, each value with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...tools.otsu import nuclei
from ...tools.pairs import Bools, Bytes, iou

RESAMPLES = 2000


def alignment(masks: Sequence[Bools], images: Sequence[Bytes]) -> list[float]:
    """IoU of each mask with what is bright in its image."""
    return [iou(mask, nuclei(image)) for mask, image in zip(masks, images, strict=True)]


def spread(images: Sequence[Bytes]) -> float:
    """Mean absolute difference of two images of one mask, in grey values of 0..255."""
    grey = np.stack(images).astype(float).mean(axis=3)
    pairs = [(i, j) for i in range(len(grey)) for j in range(i)]
    return float(np.mean([np.abs(grey[i] - grey[j]).mean() for i, j in pairs]))


def interval(values: Sequence[float], groups: Sequence[str] | None = None) -> dict[str, float]:
    """Mean with a 95 % bootstrap interval; with `groups`, whole groups are drawn."""
    numbers = np.asarray(values, dtype=float)
    labels = (
        np.arange(len(numbers)) if groups is None else np.unique(groups, return_inverse=True)[1]
    )
    sums, counts = np.bincount(labels, numbers), np.bincount(labels)
    drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {"mean": float(numbers.mean()), "low": float(low), "high": float(high)}


def colour(images: Sequence[Bytes]) -> float:
    """How far the channels are apart, on average, in 0..255; 0 for grey."""
    return float(np.mean([np.ptp(image.astype(int), axis=2).mean() for image in images]))
