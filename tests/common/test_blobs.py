"""Blobs against closed forms of circles and ellipses, and whether they lie inside the image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from siamese_diffusion.common.blobs import Blob, place_inside

LENGTH = 256


def random_blob(rng: np.random.Generator, area: float) -> Blob:
    """As rough and as long as they come."""
    waves = [(n, 0.35 * rng.random() / n, rng.uniform(0, 2 * math.pi)) for n in range(2, 7)]
    return Blob(area, waves, 1 + 0.6 * rng.random(), rng.uniform(0, 2 * math.pi))


def border(mask: np.ndarray) -> np.ndarray:
    return np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])


def test_without_waves_it_is_a_circle() -> None:
    heights = Blob(math.pi * 50**2, []).heights(200, 180, (90, 100))
    y, x = np.mgrid[:180, :200]
    assert np.allclose(heights, 50 - np.hypot(x - 90, y - 100), atol=1e-3)
    assert Blob(math.pi * 50**2, []).extent() == pytest.approx((-50, -50, 50, 50), abs=0.01)


def test_stretched_and_rotated_it_is_an_ellipse() -> None:
    """An ellipse of half axes a, b, rotated by t, is sqrt((a cos t)^2 + (b sin t)^2) wide."""
    a, b, turn = 60.0, 30.0, 0.5
    blob = Blob(math.pi * a * b, [], stretch=a / b, rotation=turn)
    x = math.hypot(a * math.cos(turn), b * math.sin(turn))
    y = math.hypot(a * math.sin(turn), b * math.cos(turn))
    assert blob.extent() == pytest.approx((-x, -y, x, y), abs=0.01)
    rows, columns = np.mgrid[:LENGTH, :LENGTH] - 128.0
    along = columns * math.cos(turn) + rows * math.sin(turn)
    across = rows * math.cos(turn) - columns * math.sin(turn)
    inside = (along / a) ** 2 + (across / b) ** 2 < 1
    assert ((blob.heights(LENGTH, LENGTH, (128, 128)) > 0) != inside).sum() <= 2


@pytest.mark.parametrize("seed", range(20))
def test_area_and_extent_are_those_of_the_drawn_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blob = random_blob(rng, rng.uniform(0.02, 0.1) * LENGTH**2)
    mask = blob.heights(LENGTH, LENGTH, (128, 128)) > 0
    assert mask.sum() == pytest.approx(blob.area, rel=0.01)
    rows, columns = (np.flatnonzero(mask.any(axis)) - 128 for axis in (1, 0))
    left, top, right, bottom = blob.extent()
    for pixel, end in (
        *((columns[0], left), (rows[0], top)),
        *((-columns[-1], -right), (-rows[-1], -bottom)),
    ):
        assert 0 <= pixel - end < 1.5  # a pointed end may miss the pixel's middle


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (40, 130)])
def test_a_blob_lies_inside_and_may_lie_anywhere(size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    for _ in range(200):
        blob = random_blob(rng, rng.uniform(0.01, 0.2) * min(size) ** 2)
        drawn = place_inside(blob, width, height, tuple(rng.random(2)))
        assert drawn.any() and not border(drawn).any()
        near = [place_inside(blob, width, height, (place, place)) for place in (0, 1)]
        for mask in near:
            assert not border(mask).any()
            assert mask.sum() == pytest.approx(blob.area, rel=0.05, abs=12)
        assert near[0][:3].any() and near[0][:, :3].any()
        assert near[1][-3:].any() and near[1][:, -3:].any()


def test_a_blob_without_room_lies_in_the_middle_whatever_its_place() -> None:
    circle = Blob(math.pi * 30**2, [])  # 60 pixels high in 40, with room to the sides
    left, right = (place_inside(circle, 101, 40, (place, place)) for place in (0.0, 1.0))
    for mask in (left, right):
        assert np.array_equal(mask, mask[::-1])
        assert mask[0].any() and mask[-1].any()
        assert not mask[:, [0, -1]].any()
    assert np.array_equal(left, right[:, ::-1])
