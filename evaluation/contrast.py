"""Where pairs help and where they harm: test images by their contrast, and what the pairs show.

Contrast is how much brighter an image is within its mask than outside it, in 0..255; negative where
the masked region is the darker one. What a generator has not seen it does not make, and a segmenter
that trains on its pairs may learn that nothing looks so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .arms import BASELINE
from .downstream import ALL, Downstream, over_segmenters
from .intervals import FEWEST, bootstrap
from .overlap import METRICS
from .pair_sets import PairSet

PARTS = 5


@dataclass(frozen=True)
class Fifths:
    """Test images by contrast, the dimmest fifth first: their numbers, and each fifth's range."""

    test: PairSet
    numbers: tuple[np.ndarray, ...]
    ranges: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, test: PairSet) -> Fifths:
        """Raises ValueError where there are too few images for five intervals."""
        values = contrast(test)
        order = np.argsort(values, kind="stable")[: np.isfinite(values).sum()]  # NaN comes last
        if len(order) < PARTS * FEWEST:
            raise ValueError(
                f"{len(order)} test images have something inside and outside their mask; at least "
                f"{PARTS * FEWEST} are needed"
            )
        numbers = tuple(np.array_split(order, PARTS))
        ranges = tuple((float(values[part[0]]), float(values[part[-1]])) for part in numbers)
        return cls(test, numbers, ranges)

    def shares(self, pairs: PairSet) -> dict[str, Any]:
        """The set's mean contrast, and the share of its images in each fifth's range."""
        values = contrast(pairs)
        known = values[np.isfinite(values)]
        if not len(known):
            return {"mean": None, "shares": None}
        starts = [low for low, _ in self.ranges[1:]]
        counts = np.bincount(np.searchsorted(starts, known, side="right"), minlength=PARTS)
        return {"mean": float(known.mean()), "shares": (counts / len(known)).tolist()}

    def differences(self, values: np.ndarray, seed: int) -> list[dict[str, Any]]:
        """Of values (trainings, test images): the mean in each fifth, with an interval over groups
        where the test images have them."""
        return [
            asdict(bootstrap(values[:, part], seed, self.test.take(part).groups))
            for part in self.numbers
        ]


def contrast(pairs: PairSet) -> np.ndarray:
    """(N,), in 0..255; NaN where a mask is empty or covers the image."""
    return np.array(
        [_contrast(image, mask) for image, mask in zip(pairs.images, pairs.masks, strict=True)]
    )


def _contrast(image: np.ndarray, mask: np.ndarray) -> float:
    if mask.all() or not mask.any():
        return math.nan
    return float(image[mask].mean() - image[~mask].mean())


def measure_contrast(found: Downstream, sets: Iterable[PairSet]) -> dict[str, Any]:
    """For the report: how often each set shows what each fifth of the test images shows, and all
    arms' differences in Dice to real + augmentation in each."""
    try:
        fifths = Fifths.of(found.test)
    except ValueError as error:
        return {"left_out": str(error)}
    dice = METRICS.index("dice")
    base = over_segmenters(found.values[BASELINE], ALL)
    return {
        "ranges": fifths.ranges,
        "sets": [{"set": pairs.name, **fifths.shares(pairs)} for pairs in sets],
        "arms": [
            {
                "arm": arm,
                "dice": fifths.differences(
                    (over_segmenters(found.values[arm], ALL) - base)[..., dice], found.settings.seed
                ),
            }
            for arm in found.values
            if arm != BASELINE
        ],
    }
