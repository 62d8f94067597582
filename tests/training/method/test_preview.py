"""Previews: what they sample, and what is drawn over it."""

from __future__ import annotations

import pytest
import torch
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.training.method.networks import SiameseNetworks
from siamese_diffusion.training.method.noise_schedule import NoiseSchedule
from siamese_diffusion.training.method.objective import Objective
from siamese_diffusion.training.method.sampling import Conditions, sample
from siamese_diffusion.training.run.pictures import OUTLINE, outline
from support.oracle import ORACLE
from support.seeded_weights import relative_error
from torch import Tensor

pytest_plugins = ["support.published_networks"]


@pytest.mark.slow
def test_a_preview_is_the_published_ddim(nets: SiameseNetworks) -> None:
    known = ORACLE.tensors
    conditions = Conditions(
        mask=known["hint_mask"][:, :1],
        text=known["context"],
        empty_text=known["uncond_context"],
        noise=known["x_T"],
    )
    objective = Objective(nets, NoiseSchedule(), RECIPES["published"], 100)
    latents = sample(objective, conditions, steps=10, cfg=9.0)
    assert relative_error(latents, known["final_f32"]) < 5e-4


def binary_mask() -> Tensor:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    return mask


def palette_mask() -> Tensor:
    """A dark green class beside a dark red one, on black."""
    mask = torch.zeros(1, 3, 8, 8)
    mask[:, 1, 2:6, 2:4] = mask[:, 0, 2:6, 4:6] = 128 / 255
    return mask


@pytest.mark.parametrize("mask", [binary_mask(), palette_mask()], ids=["binary", "palette"])
def test_the_outline_has_its_colour_on_every_kind_of_mask(mask: Tensor) -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    drawn = outline(image, mask)
    # Both sides of every border between two classes, diagonals included.
    edge = torch.zeros(8, 8, dtype=torch.bool)
    edge[1:7, 1:7] = True
    edge[3:5, 3:5] = mask.shape[1] == 3
    colour = torch.tensor(OUTLINE).view(3, 1)
    assert torch.equal(drawn[0][:, edge], colour.expand(-1, int(edge.sum())))
    assert torch.equal(drawn[0][:, ~edge], image[0][:, ~edge])
