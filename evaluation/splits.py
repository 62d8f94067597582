"""Parting real pairs without parting a group."""

from __future__ import annotations

import numpy as np

from ..common.pairs import DatasetError
from .pair_sets import PairSet


def split(pairs: PairSet, share: float, seed: int) -> tuple[PairSet, PairSet]:
    """(the rest, about `share` of the pairs); a group is wholly in one of them.

    Raises DatasetError when there are not two groups (or images) to part.
    """
    units, labels, sizes = np.unique(pairs.units, return_inverse=True, return_counts=True)
    if len(units) < 2:
        raise DatasetError(
            pairs.name,
            [f"{len(pairs)} pairs of one group or image; two are needed to hold one out"],
        )
    order = np.random.default_rng((seed, 1)).permutation(len(units))
    enough = int(np.searchsorted(sizes[order].cumsum(), share * len(pairs))) + 1
    held = np.isin(labels, order[: min(enough, len(units) - 1)])
    return pairs.take(np.flatnonzero(~held)), pairs.take(np.flatnonzero(held))
