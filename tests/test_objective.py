"""Networks and objective against the published code's numbers (tests/data)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from oracle import ORACLE
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import StateDict
from siamese_diffusion.training.ldm_keys import (
    UNetShape,
    control_to_diffusers,
    read_shape,
    unet_to_diffusers,
)
from siamese_diffusion.training.networks import SiameseNetworks, new_controlnet
from siamese_diffusion.training.objective import Batch, Objective
from siamese_diffusion.training.schedule import NoiseSchedule
from torch import Tensor, nn


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


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


def test_networks_agree_with_the_published_ones(nets: SiameseNetworks) -> None:
    known = ORACLE.tensors
    noisy, timesteps, text = known["x_noisy"], known["timesteps"], known["context"]
    with torch.no_grad():
        controls = {
            name: nets.control(noisy, timesteps, text, known[f"hint_{name}"])
            for name in ("mask", "image")
        }
        encoded = nets.encode(noisy, timesteps, text)
        joint = controls["mask"].lerp(controls["image"], 1.0, 0.4)
        outputs = {
            "nocontrol": nets.decode(encoded, text),
            "mask": nets.decode(encoded, text, controls["mask"]),
            "joint": nets.decode(encoded, text, joint),
        }
    for name, control in controls.items():
        for index, tensor in enumerate((*control.skips, control.middle)):
            assert relative(tensor, known[f"control_{name}_{index}_f32"]) < 2e-5
    for name, output in outputs.items():
        assert relative(output, known[f"eps_{name}_f32"]) < 2e-5


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


@pytest.mark.parametrize("case", ORACLE.cases.values(), ids=ORACLE.cases)
def test_losses_and_gradients_are_the_published_ones(
    nets: SiameseNetworks, case: dict[str, Any]
) -> None:
    batch, objective = published_batch(case), published_objective(nets, case)
    nets.zero_grad(set_to_none=True)
    losses = objective.losses(batch, case["global_step"], lambda terms: terms.mean().backward())

    for term in ("mask", "image", "consistency"):
        torch.testing.assert_close(
            losses[term], torch.tensor(case["per_sample"][term]), rtol=1e-5, atol=1e-7
        )
    if "mask_regularization" in case["per_sample"]:
        expected = torch.tensor(case["per_sample"]["mask_regularization"])
        expected = expected * (batch.timesteps <= 200)
        torch.testing.assert_close(losses["augmentation"], expected, rtol=1e-5, atol=0)
    total = sum(losses.values(), torch.zeros(2)).mean().item()
    assert total == pytest.approx(case["total"], rel=1e-5)
    assert_gradient_norms(nets, case["grad_norm_total"])


@pytest.mark.parametrize("term", ["mask", "image", "consistency", "augmentation"])
@pytest.mark.parametrize("name", ["a_ratio0.1", "b_ratio0.5", "c_step0"])
def test_each_term_teaches_what_it_does_in_the_published_code(
    nets: SiameseNetworks, name: str, term: str
) -> None:
    case = ORACLE.cases[name]
    norms = case["grad_norm_per_term"]
    nets.zero_grad(set_to_none=True)
    losses = published_objective(nets, case).losses(published_batch(case), case["global_step"])
    published_term = {"augmentation": "mask_regularization"}.get(term, term)
    assert (term in losses) == (published_term in norms)
    if term in losses:
        losses[term].mean().backward()
        assert_gradient_norms(nets, norms[published_term])


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


def test_full_size_keys_are_the_published_ones() -> None:
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in ORACLE.full.items()}
        unet = under("model.diffusion_model.", tensors)
        shape = read_shape(unet, "SD 1.5")
        module = UNet2DConditionModel(**shape.diffusers_config())
        controlnet = new_controlnet(module, hint_channels=3)
    assert shape == UNetShape((320, 640, 1280, 1280), (True, True, True, False), 2, 768, False)
    control = under("control_model.", tensors)
    for renamed, expected in (
        (unet_to_diffusers(unet, shape, "UNet"), module.state_dict()),
        (control_to_diffusers(control, shape, "ControlNet"), controlnet.state_dict()),
    ):
        assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in expected.items()}
