"""Finds fluorescent nuclei by brightness alone: the measure of alignment that needs no network."""

from __future__ import annotations

import numpy as np

from .pairs import Bools, Bytes


def nuclei(image: Bytes) -> Bools:
    """What is brighter than Otsu's threshold: image (H, W) or (H, W, 3) in 0..255 -> (H, W)."""
    grey = image.mean(axis=2) if image.ndim == 3 else image.astype(float)
    return grey > otsu(grey)


def otsu(grey: np.ndarray) -> float:
    """The threshold that parts the values into two groups with the least variance within them."""
    counts, edges = np.histogram(grey, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    sums = np.cumsum(counts * centres)
    mean_below = sums / np.maximum(below, 1)
    mean_above = (sums[-1] - sums + counts * centres) / np.maximum(above, 1)
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(edges[1:][np.argmax(between)])
