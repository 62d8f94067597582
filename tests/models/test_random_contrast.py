"""Contrast drawn at random, on pictures whose every value is known."""

from __future__ import annotations

import pytest
import torch
from siamese_diffusion.models.contrast import with_random_contrast
from torch import Tensor

FLOOR, LESION = torch.tensor([0.1, 0.2, 0.6]), torch.tensor([0.9, 0.6, 0.2])


def picture(count: int) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 8, 8) of one colour with a quarter of another one, and masks of it."""
    masks = torch.zeros(count, 1, 8, 8)
    masks[..., :4, :4] = 1
    images = torch.where(masks > 0, LESION[:, None, None], FLOOR[:, None, None])
    return images, masks


def shares(images: Tensor) -> Tensor:
    """Of the contrast that `picture` has, by channel: (B, 3)."""
    return (images[..., 0, 0] - images[..., 7, 7]) / (LESION - FLOOR)


def test_colours_move_towards_what_is_outside_by_a_share_of_the_seed() -> None:
    images, masks = picture(200)
    found = with_random_contrast(images, masks, range(200), 0.25)
    assert torch.equal(found[..., 7, 7], images[..., 7, 7])  # outside, all is the median
    of_each = shares(found)
    assert torch.allclose(of_each, of_each[:, :1].expand(-1, 3), atol=1e-5)
    assert of_each.min() >= 0.25 - 1e-5 and of_each.max() <= 1
    # Uniform: the mean of 200 has a standard error of 0.015.
    assert of_each[:, 0].mean().item() == pytest.approx(0.625, abs=0.06)
    assert of_each.min() < 0.3 and of_each.max() > 0.95


def test_an_image_depends_on_its_own_seed_alone() -> None:
    images, masks = picture(3)
    found = with_random_contrast(images, masks, [7, 2**64 - 1, 7], 0.1)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    alone = with_random_contrast(images[:1], masks[:1], [7], 0.1)
    assert torch.equal(alone[0], found[0])


def test_at_one_nothing_changes() -> None:
    images, masks = picture(2)
    assert torch.equal(with_random_contrast(images, masks, [1, 2], 1.0), images)


def test_masks_may_be_palettes_of_another_size_and_may_leave_nothing_outside() -> None:
    images, masks = picture(1)
    palette = torch.zeros(1, 3, 4, 4)
    palette[:, 1, :2, :2] = 1  # one class, in green
    same = with_random_contrast(images, masks, [3], 0.5)
    assert torch.equal(with_random_contrast(images, palette, [3], 0.5), same)
    full = with_random_contrast(images, torch.ones_like(masks), [3], 0.5)
    assert torch.equal(full, same)  # the median of all is that of the larger part
