"""What the same segmenter is trained on: the arms of the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .pair_sets import PairSet

REAL = "real"
BASELINE = "real + augmentation"


@dataclass(frozen=True)
class Arm:
    """A name, and the pairs it trains on: real ones, synthetic ones, or both.

    ratio: synthetic pairs for each real one; None takes all synthetic pairs and no real one.
    """

    name: str
    augment: bool
    synthetic: PairSet | None = None
    ratio: float | None = None

    def synthetic_count(self, real: int) -> int:
        if self.synthetic is None:
            return 0
        return len(self.synthetic) if self.ratio is None else round(self.ratio * real)

    def pool(self, real: PairSet, seed: int, number: int) -> PairSet:
        """The pairs of repetition `number`; a lower ratio's are among a higher one's."""
        if self.synthetic is None:
            return real
        if self.ratio is None:
            return self.synthetic
        order = np.random.default_rng((seed, number, 2)).permutation(len(self.synthetic))
        return real.joined(self.synthetic.take(order[: self.synthetic_count(len(real))]))


def plan(
    real: int, synthetic: Sequence[PairSet], ratios: Sequence[float]
) -> tuple[list[Arm], list[str]]:
    """The arms for `real` real pairs, and the ones left out with the reason."""
    arms, left_out = [Arm(REAL, False), Arm(BASELINE, True)], []
    for pairs in synthetic:
        if not len(pairs):
            left_out.append(f"{pairs.name}: no pair is left in it")
            continue
        arms.append(Arm(f"{pairs.name} only", True, pairs))
        for ratio in sorted(ratios):
            arm = Arm(f"real + {ratio:g}x {pairs.name}", True, pairs, ratio)
            needed = arm.synthetic_count(real)
            if needed < 1:
                left_out.append(f"{arm.name}: {ratio:g} x {real} real pairs is less than one pair")
            elif needed > len(pairs):
                left_out.append(
                    f"{arm.name}: needs {needed} synthetic pairs ({ratio:g} for each of {real} "
                    f"real ones); {pairs.name} has {len(pairs)}"
                )
            else:
                arms.append(arm)
    return arms, left_out
