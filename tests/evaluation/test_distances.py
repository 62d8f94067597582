"""Distances between sets against closed forms of normal distributions."""

from __future__ import annotations

import numpy as np
import pytest
from siamese_diffusion.evaluation.distances import frechet, kid, nearest, nearest_other, prdc
from siamese_diffusion.evaluation.fidelity import compare
from siamese_diffusion.evaluation.settings import Settings


def gaussian(mean: float, deviation: float, rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, (rows, columns))


def moments(mean: float, deviation: float) -> np.ndarray:
    """E[x], E[x^2], E[x^3] of a normal distribution."""
    square = deviation**2
    return np.array([mean, mean**2 + square, mean**3 + 3 * mean * square])


def kid_between(mean: float, deviation: float) -> float:
    """Of N(0, 1): (xy + 1)^3 = 1 + 3xy + 3x^2y^2 + x^3y^3, squared differences of moments."""
    return (np.array([3, 3, 1]) * (moments(0, 1) - moments(mean, deviation)) ** 2).sum()


@pytest.mark.parametrize("other", [(0.5, 1.0), (0.0, 1.5), (-0.5, 0.7)])
def test_kid_of_normal_distributions(other: tuple[float, float]) -> None:
    expected = kid_between(*other)
    found = [
        kid(gaussian(0, 1, 1500, 1, seed), gaussian(*other, 1500, 1, seed + 100))
        for seed in range(6)
    ]
    assert np.mean(found) == pytest.approx(expected, rel=0.15)


def test_kid_is_unbiased_for_sets_of_one_distribution() -> None:
    found = [
        kid(gaussian(0, 1, 30, 4, seed), gaussian(0, 1, 30, 4, seed + 500)) for seed in range(400)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20
    assert min(found) < 0


def test_draws_of_equal_sets_differ_and_hold_the_value_of_the_whole_sets() -> None:
    hits = 0
    for seed in range(40):
        first, second = gaussian(0, 1, 120, 1, seed), gaussian(0.5, 1, 120, 1, seed + 100)
        sets = {"reference": first, "other": second}
        [row], n = compare(sets, lambda x, y: {"kid": kid(x, y)}, Settings())
        assert n == 60
        assert row["kid"]["low"] < kid(first, second) < row["kid"]["high"]
        hits += row["kid"]["low"] < kid_between(0.5, 1) < row["kid"]["high"]
    assert hits >= 34


def test_frechet_of_normal_distributions() -> None:
    """|m1 - m2|^2 + (s1 - s2)^2 for each of five independent columns."""
    first, second = gaussian(0, 1, 20000, 5, 0), gaussian(0.4, 1.5, 20000, 5, 1)
    assert frechet(first, second) == pytest.approx(5 * (0.4**2 + 0.5**2), rel=0.05)


def test_precision_and_its_like_of_equal_sets_and_of_sets_far_apart() -> None:
    points = gaussian(0, 1, 60, 3, 0)
    same = prdc(points, points.copy())
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert set(prdc(points, points + 1000).values()) == {0}


def test_a_set_that_repeats_one_image_is_precise_and_covers_little() -> None:
    points = gaussian(0, 1, 60, 3, 0)
    one = np.repeat(points[:1], 60, axis=0) + gaussian(0, 1e-3, 60, 3, 1)
    found = prdc(points, one)
    assert found["precision"] == 1
    assert found["coverage"] < 0.25


def test_nearest_finds_planted_copies() -> None:
    training = gaussian(0, 1, 50, 8, 0)
    copied = [7, 3, 41]
    numbers, distances = nearest(training[copied] + 1e-3, training)
    assert numbers.tolist() == copied
    assert distances == pytest.approx(np.full(3, 1e-3 * 8**0.5))


def test_nearest_other_is_never_oneself() -> None:
    assert nearest_other(np.array([[0.0], [1.0], [5.0]])) == pytest.approx([1, 1, 4])
