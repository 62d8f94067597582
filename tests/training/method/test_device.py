"""Everything of a loss lies on the device of the networks: on a GPU that this machine lacks.

PyTorch's fake tensors have a device and a shape, and no values; what mixes devices is an error.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from diffusers import UNet2DConditionModel
from siamese_diffusion.benchmarks.workload import TINY, Scale, random_batch
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.training.method.networks import SiameseNetworks, new_controlnet
from siamese_diffusion.training.method.noise_schedule import NoiseSchedule
from siamese_diffusion.training.method.objective import Objective
from torch._subclasses.fake_tensor import FakeTensorMode

GPU = torch.device("cuda", 0)
SCALE = Scale("tiny", TINY, batch=5, pixels=16, rounds=1)


@pytest.mark.parametrize("name", RECIPES)
def test_losses_stay_on_the_device(name: str) -> None:
    recipe, read = RECIPES[name], random_batch(SCALE, augmented=1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with GPU:
            unet = UNet2DConditionModel(**TINY.diffusers_config())
            nets = SiameseNetworks(unet, new_controlnet(unet, recipe.hint_channels()))
        objective = Objective(nets, NoiseSchedule(device=GPU), recipe, max_steps=3)
        batch = read.to(GPU)
        found = objective.losses(batch, step=3).values()
    moved = [getattr(batch, field.name) for field in fields(batch)]
    for tensor in (*found, *moved):
        assert tensor is None or tensor.device == GPU
    assert [loss.shape for loss in found] == [(SCALE.batch,)] * len(found)
