"""Dice, IoU and HD95 against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from siamese_diffusion.evaluation.overlap import dice, overlap

EMPTY = np.zeros((20, 20), dtype=bool)


def square(top: int, left: int, side: int = 8) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (square(4, 4), square(4, 4), (1, 1, 0)),
        # 8 x 8 moved by 4: half of each overlaps.
        (square(4, 4), square(4, 8), (2 * 32 / 128, 32 / 96, 4)),
        (square(0, 0), square(12, 12), (0, 0, None)),
        (EMPTY, EMPTY, (1, 1, 0)),
        (EMPTY, square(4, 4), (0, 0, math.hypot(20, 20))),
        (square(4, 4), EMPTY, (0, 0, math.hypot(20, 20))),
    ],
)
def test_overlap_of_squares(
    predicted: np.ndarray, true: np.ndarray, expected: tuple[float, float, float | None]
) -> None:
    (found,) = overlap(predicted[None], true[None])
    for value, wanted in zip(found, expected, strict=True):
        assert wanted is None or value == pytest.approx(wanted)
    assert dice(predicted[None], true[None])[0] == pytest.approx(expected[0])


def test_hd95_is_the_percentile_of_outline_distances() -> None:
    """Against distances counted pixel by pixel."""
    rng = np.random.default_rng(0)
    first, second = square(3, 3, 9), square(5, 6, 11)
    first[rng.integers(0, 20, 4), rng.integers(0, 20, 4)] = True
    (_, _, found), *_ = overlap(first[None], second[None])
    outlines = [np.argwhere(mask & ~_inner(mask)) for mask in (first, second)]
    distances = np.linalg.norm(outlines[0][:, None] - outlines[1][None], axis=-1)
    expected = max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))
    assert found == pytest.approx(expected, rel=1e-5)


def _inner(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
