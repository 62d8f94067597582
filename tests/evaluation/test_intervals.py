"""Bootstrap intervals against what is known of means."""

from __future__ import annotations

import numpy as np
import pytest
from siamese_diffusion.evaluation.intervals import bootstrap

WIDTH = 2 * 1.96  # of a 95 % interval, in standard errors


def test_the_interval_has_the_width_of_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(0.3, 2, (1, 400))
    found = bootstrap(values, seed=0)
    assert found.mean == pytest.approx(values.mean())
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(WIDTH * values.std() / 20, rel=0.1)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = [bootstrap(rng.normal(0, 1, (1, 40)), seed) for seed in range(300)]
    hits = sum(one.low is not None and one.low <= 0 <= (one.high or 0) for one in found)
    assert 0.88 <= hits / 300 <= 0.99


def test_repetitions_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    images = rng.normal(0, 1, 200)
    agreeing, apart = (
        bootstrap(images + np.array(rows)[:, None], 0) for rows in ((0, 0, 0), (-1, 0, 1))
    )
    assert apart.high - apart.low > 3 * (agreeing.high - agreeing.low)  # type: ignore[operator]


def test_images_of_one_group_count_as_one_witness() -> None:
    """Ten copies of each of 30 values know no more than the 30 values."""
    values = np.random.default_rng(3).normal(0, 1, 30)
    copies, groups = (
        np.repeat(values, 10)[None],
        [f"patient {n:02}" for n in np.repeat(range(30), 10)],
    )
    by_image, by_group = bootstrap(copies, 0), bootstrap(copies, 0, groups)
    alone = bootstrap(values[None], 0)
    assert (by_group.low, by_group.high) == pytest.approx((alone.low, alone.high))
    assert by_group.n == 30
    assert by_image.high - by_image.low < 0.5 * (by_group.high - by_group.low)  # type: ignore[operator]


def test_too_few_images_have_no_interval() -> None:
    found = bootstrap(np.ones((3, 4)), 0)
    assert (found.mean, found.low, found.high, found.n) == (1, None, None, 4)
