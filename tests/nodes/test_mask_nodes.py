"""Making masks: the functions alone, and the nodes in a real server."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from siamese_diffusion.tools.comfy_host import ComfyHost, HostError
from support.mask_inputs import augment_prompt, generator, list_prompt, square
from support.workflow_prompts import Prompt, images, node

pytest_plugins = ["support.comfy_inside", "support.served_models"]


@pytest.mark.parametrize(
    "changes",
    [
        (True, 0, 0, 0),
        (False, 45, 0, 0),
        (False, 0, 0.5, 0),
        (False, 0, 0, 1),
        (True, 20, 0.2, 0.5),
    ],
)
def test_a_changed_mask_is_another_mask_of_zeros_and_ones(
    pack: SimpleNamespace, changes: tuple[Any, ...]
) -> None:
    how, source = pack.shapes.Changes(*changes), generator(3)
    found = [pack.shapes.augment(square(), how, source) for _ in range(4)]
    for mask in found:
        assert mask.shape == (64, 64)
        assert mask.unique().tolist() == [0, 1]
    assert any(not torch.equal(mask, square()) for mask in found)
    again = generator(3)
    assert all(torch.equal(pack.shapes.augment(square(), how, again), mask) for mask in found)


def test_no_change_is_no_change(pack: SimpleNamespace) -> None:
    how = pack.shapes.Changes(False, 0, 0, 0)
    assert torch.equal(pack.shapes.augment(square(), how, generator()), square())


def test_rotating_rotates_and_scaling_scales(pack: SimpleNamespace) -> None:
    wide = torch.zeros(64, 64)
    wide[28:36, 8:56] = 1
    for seed in range(10):
        rotated = pack.shapes.augment(wide, pack.shapes.Changes(False, 180, 0, 0), generator(seed))
        assert 0.9 < rotated.sum() / wide.sum() < 1.1
        scaled = pack.shapes.augment(wide, pack.shapes.Changes(False, 0, 0.3, 0), generator(seed))
        assert 0.4 < scaled.sum() / wide.sum() < 1.8


def test_a_lesion_stays_in_the_image_or_it_is_an_error(pack: SimpleNamespace) -> None:
    edge, corner, nothing = torch.zeros(3, 64, 64)
    edge[:2, 30:34] = 1
    corner[2, 2] = 1
    how = pack.shapes.Changes(False, 180, 0.5, 0)
    assert all(pack.shapes.augment(edge, how, generator(seed)).any() for seed in range(20))
    assert not pack.shapes.augment(nothing, how, generator()).any()
    rotated = pack.shapes.Changes(False, 180, 0, 0)
    with pytest.raises(ValueError, match="20 attempts moved the lesion out of the image"):
        for seed in range(50):
            pack.shapes.augment(corner, rotated, generator(seed))


def test_outlines_stay_smooth_and_the_border_cuts_no_lesion_off(pack: SimpleNamespace) -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc = ((x - 32) ** 2 + (y - 32) ** 2 < 16**2).float()
    half = ((x - 32) ** 2 + y**2 < 16**2).float()

    def outline(mask: torch.Tensor) -> float:
        """Pairs of neighbours that differ, for a disc of this area: 8 radii on a grid."""
        pairs = (mask.diff(dim=0) != 0).sum() + (mask.diff(dim=1) != 0).sum()
        return float(pairs) / (8 * math.sqrt(float(mask.sum()) / math.pi))

    changes = pack.shapes.Changes(False, 180, 0.3, 0.5)
    discs = [pack.shapes.augment(disc, changes, generator(seed)) for seed in range(20)]
    assert max(map(outline, discs)) < 1.08
    smaller = pack.shapes.Changes(False, 0, 0.5, 0)
    halves = [pack.shapes.augment(half, smaller, generator(seed)) for seed in range(20)]
    assert min(float(mask.sum()) for mask in halves) < 0.6 * float(half.sum())
    assert all(mask[0].any() for mask in halves)


@pytest.mark.parametrize(
    ("size", "area"),
    [
        ((64, 64), (0.03, 0.15)),
        ((64, 64), (0.2, 0.2)),
        ((200, 160), (0.001, 0.1)),
        ((96, 48), (0.03, 0.1)),
        ((40, 120), (0.05, 0.06)),
    ],
)
def test_random_masks_have_the_area_asked_for_and_do_not_touch_the_border(
    pack: SimpleNamespace, size: tuple[int, int], area: tuple[float, float]
) -> None:
    width, height = size
    masks = [
        pack.shapes.random_mask(width, height, 1, area, generator(seed)) for seed in range(300)
    ]
    rounding = 12 / (width * height)
    for mask in masks:
        assert mask.shape == (height, width)
        assert mask.unique().tolist() == [0, 1]
        assert area[0] * 0.97 - rounding < mask.mean() < area[1] * 1.03 + rounding
        assert not any(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 300


def test_several_lesions_are_as_clear_of_the_border(pack: SimpleNamespace) -> None:
    masks = [pack.shapes.random_mask(64, 64, 5, (0.01, 0.1), generator(s)) for s in range(100)]
    whole = torch.stack(masks).amax(0)
    assert not any(edge.any() for edge in (whole[0], whole[-1], whole[:, 0], whole[:, -1]))
    assert whole[1:-1, 1:-1].mean() > 0.9  # and they lie anywhere but in the corners


def test_a_shape_too_large_for_the_image_fills_its_middle(pack: SimpleNamespace) -> None:
    for seed in range(50):
        mask = pack.shapes.random_mask(64, 64, 1, (0.9, 0.9), generator(seed))
        assert mask[24:40, 24:40].all()
        cut = [bool(edge.any()) for edge in (mask[0], mask[:, 0], mask[-1], mask[:, -1])]
        assert any(cut) and cut[:2] == cut[2:]  # on both sides alike


def random_prompt(**settings: Any) -> Prompt:
    inputs = {
        **{"seed": 1, "width": 64, "height": 48, "count": 2},
        **{"lesions": 2, "smallest": 3.0, "largest": 15.0, **settings},
    }
    return {
        "new": node("SiameseRandomMask", **inputs),
        "image": node("MaskToImage", mask=["new", 0]),
        "show": node("PreviewImage", images=["image", 0]),
    }


def test_augmented_masks_depend_on_the_seed(served: ComfyHost) -> None:
    first, other = (images(served, augment_prompt(seed=seed)) for seed in (1, 2))
    assert len(first) == 3
    assert {tuple(np.unique(found)) for found in first} == {(0, 255)}
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_each_mask_of_a_list_changes_in_its_own_way(served: ComfyHost, three_masks: str) -> None:
    """The same move of three masks with one upper left corner would keep that in one place."""
    prompt = {**list_prompt(three_masks), **augment_prompt(variants=1, flip=False, elastic=0.0)}
    prompt["new"]["inputs"]["mask"] = ["load", 0]
    corners = {tuple(np.argwhere(found[..., 0])[0]) for found in images(served, prompt)}
    assert len(corners) == 3


def test_random_masks_depend_on_the_seed(served: ComfyHost) -> None:
    first, other = (images(served, random_prompt(seed=seed)) for seed in (1, 2))
    assert [found.shape for found in first] == [(48, 64, 3)] * 2
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_exchanged_areas_are_an_error(served: ComfyHost) -> None:
    with pytest.raises(HostError, match=r"smallest is 20 % and largest 10 %\. Swap them"):
        served.run(random_prompt(smallest=20.0, largest=10.0))
