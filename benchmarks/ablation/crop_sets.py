"""Nuclei crops as the evaluation's sets of pairs, without files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...common.pairs import Pair
from ...evaluation.pair_sets import PairSet
from ...tools.nuclei_crops import PROMPT, Crop

SMALLEST_SHARE = 0.25  # of an image's contrast


def crop_set(name: str, crops: Sequence[Crop]) -> PairSet:
    """The crops as pairs of three equal channels."""
    return PairSet(
        name,
        tuple(Pair(Path(crop.name), Path(crop.name), PROMPT, group=crop.group) for crop in crops),
        np.stack([crop.image for crop in crops])[..., None].repeat(3, axis=3),
        np.stack([crop.mask for crop in crops]),
        tuple(_hash(crop.image) for crop in crops),
        tuple(_hash(crop.mask) for crop in crops),
    )


def dimmed(pairs: PairSet, name: str, seed: int) -> PairSet:
    """Pairs whose images keep a random share of their contrast, from a quarter on.

    Grey values are moved towards the image's median outside its mask.
    """
    shares = np.random.default_rng((seed, 2)).uniform(SMALLEST_SHARE, 1, len(pairs))
    images = np.empty_like(pairs.images)
    for index, (image, mask, share) in enumerate(
        zip(pairs.images, pairs.masks, shares, strict=True)
    ):
        floor = np.median(image[~mask])
        images[index] = (floor + share * (image - floor)).round()
    return replace(
        pairs, name=name, images=images, image_hashes=tuple(_hash(image) for image in images)
    )


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
