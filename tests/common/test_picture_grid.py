"""Where images come to lie on one."""

from __future__ import annotations

import numpy as np
from PIL import Image
from siamese_diffusion.common.picture_grid import fitted, picture_grid


def test_cells_fill_the_rows_with_gaps_between_and_a_margin_around() -> None:
    cells = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    page = picture_grid(cells, columns=2, gap=1, margin=2, colour=(1, 2, 3))
    expected = np.ones((2 * 2 + 1 + 4, 2 * 3 + 1 + 4), np.uint8)
    expected[2:4, 2:5], expected[2:4, 6:9], expected[5:7, 2:5] = 10, 20, 30
    assert np.array_equal(page[..., 0], expected)
    assert set(page[expected == 1].ravel()) == {1, 2, 3}


def test_one_row_without_margin_is_as_wide_as_its_cells_and_gaps() -> None:
    cells = [np.zeros((4, 5, 3), np.uint8)] * 3
    assert picture_grid(cells, columns=3, gap=2).shape == (4, 3 * 5 + 2 * 2, 3)


def test_a_fitted_image_keeps_its_proportions_in_the_middle() -> None:
    image = np.full((20, 40, 3), 200, np.uint8)
    found = fitted(image, 16, Image.Resampling.BILINEAR, colour=(0, 0, 0))
    expected = np.zeros((16, 16, 3), np.uint8)
    expected[4:12] = 200
    assert np.array_equal(found, expected)
    thread = np.full((400, 1, 3), 200, np.uint8)
    assert (fitted(thread, 16, Image.Resampling.NEAREST)[..., 0] == 200).sum() == 16
