"""The oracle's reduced networks and loss cases, as training has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import StateDict
from siamese_diffusion.training.method.ldm_keys import (
    control_to_diffusers,
    read_shape,
    unet_to_diffusers,
)
from siamese_diffusion.training.method.networks import SiameseNetworks, new_controlnet
from siamese_diffusion.training.method.noise_schedule import NoiseSchedule
from siamese_diffusion.training.method.objective import Batch, Objective
from torch import nn

from support.oracle import ORACLE


@pytest.fixture(scope="module")
def nets() -> SiameseNetworks:
    """The reduced ControlNet and UNet of the oracle, as training builds them."""
    weights = ORACLE.weights()
    unet, control = under("model.diffusion_model.", weights), under("control_model.", weights)
    shape = read_shape(unet, "published UNet")
    module = UNet2DConditionModel(**shape.diffusers_config())
    module.load_state_dict(unet_to_diffusers(unet, shape, "published UNet"))
    controlnet = new_controlnet(module, hint_channels=3)
    controlnet.load_state_dict(control_to_diffusers(control, shape, "published ControlNet"))
    return SiameseNetworks(module, controlnet)


def under(prefix: str, tensors: StateDict) -> StateDict:
    """The tensors whose keys have that prefix, by the rest of their keys."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def published_batch(case: dict[str, Any]) -> Batch:
    """What a case of the oracle learns from."""
    known = ORACLE.tensors
    return Batch(
        latents=known["x_start"],
        noise=known["noise"],
        timesteps=torch.tensor(case["t"]),
        text=known["context"],
        mask=known["hint_mask"][:, :1],
        image=known["hint_image"],
    )


def published_objective(nets: SiameseNetworks, case: dict[str, Any]) -> Objective:
    return Objective(nets, NoiseSchedule(), RECIPES["published"], case["max_steps"])


def assert_gradient_norms(nets: SiameseNetworks, expected: dict[str, float | None]) -> None:
    groups = parameter_groups(nets)
    for group, norm in expected.items():
        if norm is None:
            assert all(p.grad is None for p in groups[group]), f"{group} must not learn"
        else:
            assert gradient_norm(groups[group]) == pytest.approx(norm, rel=1e-5), group


def parameter_groups(nets: SiameseNetworks) -> dict[str, list[nn.Parameter]]:
    """Parameters by the oracle's group names."""
    control, unet = nets.controlnet, nets.unet
    zero = [control.controlnet_down_blocks, control.controlnet_mid_block]
    copied = [control.conv_in, control.down_blocks, control.mid_block, control.time_embedding]
    modules: dict[str, list[nn.Module]] = {
        "control_model": [control],
        "control_model.input_hint_block": [control.controlnet_cond_embedding],
        "control_model.zero_convs+middle_block_out": zero,
        "control_model.encoder(input_blocks+middle+time_embed)": copied,
        "diffusion_model.output_blocks+out": [unet.up_blocks, unet.conv_norm_out, unet.conv_out],
        "diffusion_model.output_blocks": [unet.up_blocks],
        "diffusion_model.out": [unet.conv_norm_out, unet.conv_out],
        "diffusion_model.input_blocks": [unet.conv_in, unet.down_blocks],
        "diffusion_model.middle_block": [unet.mid_block],
        "diffusion_model.time_embed": [unet.time_embedding],
    }
    return {name: [p for m in found for p in m.parameters()] for name, found in modules.items()}


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    norms = [p.grad.double().norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm().item()
