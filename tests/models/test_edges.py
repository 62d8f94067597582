"""Grown masks and soft edges against a filter of scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter
from siamese_diffusion.models.edges import dilated, soft_edge


def reach(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Where the mask is, or at most `pixels` away from it in both directions."""
    return maximum_filter(mask, 2 * pixels + 1)


@pytest.mark.parametrize("pixels", [0, 1, 4])
def test_a_grown_mask_has_all_that_is_near(pixels: int) -> None:
    mask = np.random.default_rng(0).random((17, 11)) > 0.97
    assert mask.any()
    grown = dilated(torch.from_numpy(mask).float()[None, None], pixels)
    assert np.array_equal(grown[0, 0].numpy(), reach(mask, pixels))


@pytest.mark.parametrize("edge", [0, 1, 2, 5, 16, 200])
def test_a_soft_edge_is_one_inside_and_zero_beyond_it(edge: int) -> None:
    mask = np.zeros((64, 80), bool)
    mask[:20, 30:50] = True  # at the border of the image
    soft = soft_edge(torch.from_numpy(mask).float()[None, None], edge)[0, 0].numpy()
    assert (soft[mask] == 1).all()
    assert np.array_equal(soft > 0, reach(mask, edge))
    assert soft.max() == 1
    across = soft[10, 49:]
    assert (np.diff(across) <= 0).all()
    steps = -np.diff(across)
    assert edge < 2 or steps.max() < 0.5  # no jump
