"""Contrast of images whose contrast is known, and differences that were put into one fifth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from siamese_diffusion.common.pairs import Pair
from siamese_diffusion.evaluation.arms import BASELINE, Arm
from siamese_diffusion.evaluation.contrast import Fifths, contrast, measure_contrast
from siamese_diffusion.evaluation.downstream import Downstream
from siamese_diffusion.evaluation.pair_sets import PairSet
from siamese_diffusion.evaluation.settings import Settings

GREY = 100


def painted(name: str, contrasts: list[int], side: int = 4) -> PairSet:
    """Grey pictures whose left half is brighter by these values, and is their mask."""
    masks = np.zeros((len(contrasts), side, side), bool)
    masks[:, :, : side // 2] = True
    images = np.full((len(contrasts), side, side, 3), GREY, np.uint8)
    for image, mask, value in zip(images, masks, contrasts, strict=True):
        image[mask] = GREY + value
    hashes = tuple(f"{name} {number}" for number in range(len(contrasts)))
    pairs = tuple(Pair(Path(name), Path(name), "", group=None) for _ in contrasts)
    return PairSet(name, pairs, images, masks, hashes, hashes)


def test_contrast_is_how_much_brighter_an_image_is_within_its_mask() -> None:
    pairs = painted("new", [50, -60, 0, 10, 10])
    pairs.masks[3], pairs.masks[4] = True, False
    assert contrast(pairs) == pytest.approx([50, -60, 0, np.nan, np.nan], nan_ok=True)


def test_a_set_is_told_by_the_fifths_of_the_test_images_that_it_shows() -> None:
    order = np.random.default_rng(0).permutation(50)
    test = painted("real_test", (order + 50).tolist())
    fifths = Fifths.of(test)
    assert fifths.ranges == ((50, 59), (60, 69), (70, 79), (80, 89), (90, 99))
    assert all(contrast(test)[part].min() == 50 + 10 * n for n, part in enumerate(fifths.numbers))
    assert fifths.shares(test)["shares"] == pytest.approx([0.2] * 5)
    beyond = fifths.shares(painted("new", [-90, 75, 120, 120]))
    assert beyond == {"mean": 56.25, "shares": [0.25, 0, 0.25, 0, 0.5]}
    empty = painted("new", [20])
    empty.masks[:] = False
    assert fifths.shares(empty) == {"mean": None, "shares": None}


def test_a_gain_is_found_in_the_fifth_that_has_it() -> None:
    test = painted("real_test", list(range(50)))
    base = np.random.default_rng(0).uniform(0.5, 0.8, (2, 50, 3))
    gain = np.zeros((50, 3))
    gain[:10, 0], gain[40:, 0] = -0.1, 0.1  # the dimmest lose, the brightest gain, in Dice
    arms = (Arm(BASELINE, True), Arm("real + 1x new", True, test, 1.0))
    values = {BASELINE: {"unet": base}, "real + 1x new": {"unet": base + gain}}
    found = Downstream(Settings(), arms, (), test, test, test, values, ())
    (row,) = measure_contrast(found, [test])["arms"]
    means = [part["mean"] for part in row["dice"]]
    assert means == pytest.approx([-0.1, 0, 0, 0, 0.1])
    assert row["dice"][0]["high"] < 0 < row["dice"][4]["low"]


def test_too_few_test_images_are_said_to_be_too_few() -> None:
    test = painted("real_test", list(range(24)))
    found = Downstream(Settings(), (), (), test, test, test, {}, ())
    assert "24 test images" in measure_contrast(found, [test])["left_out"]
