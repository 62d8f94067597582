"""Nuclei crops as the evaluation's sets of pairs, without files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...common.pairs import Pair
from ...evaluation.pair_sets import PairSet
from ...tools.nuclei_crops import PROMPT, Crop


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


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
