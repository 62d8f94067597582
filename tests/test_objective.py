"""Networks and objective against the published code's numbers (../shared/golden)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from seeded_weights import seeded
from siamese_diffusion.models.recipe import RECIPES
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

CASES = (
    "a_ratio0.1",
    "b_ratio0.5",
    "c_step0",
    "d_ratio0.5_all_t_above_200",
    "e_boundary_step_eq_third",
    "f_boundary_step_third_plus1",
    "g_t200_vs_t201",
)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(scope="module")
def nets(golden: Path) -> SiameseNetworks:
    """The reduced ControlNet and UNet of the golden files, as training builds them."""
    facts = json.loads((golden / "control_small.json").read_text(encoding="utf-8"))
    unet_prefix, control_prefix = "model.diffusion_model.", "control_model."
    unet = {
        key.removeprefix(unet_prefix): seeded(key, shape)
        for key, shape in facts["unet_state_dict"].items()
    }
    control = {
        key.removeprefix(control_prefix): seeded(key, shape)
        for key, shape in facts["control_state_dict"].items()
    }
    shape = read_shape(unet, "golden UNet")
    module = UNet2DConditionModel(**shape.diffusers_config())
    module.load_state_dict(unet_to_diffusers(unet, shape, "golden UNet"))
    controlnet = new_controlnet(module, hint_channels=3)
    controlnet.load_state_dict(control_to_diffusers(control, shape, "golden ControlNet"))
    return SiameseNetworks(module, controlnet)


def test_networks_agree_with_the_published_ones(nets: SiameseNetworks, golden: Path) -> None:
    known = load_file(golden / "control_small.safetensors")
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


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_published_ones(
    nets: SiameseNetworks, golden: Path, name: str
) -> None:
    facts = json.loads((golden / "loss_small.json").read_text(encoding="utf-8"))
    case = facts["cases"]["float32"][name]
    known = load_file(golden / "loss_small.safetensors")
    batch = Batch(
        latents=known["x_start"],
        noise=known["noise"],
        timesteps=torch.tensor(case["t"]),
        text=known["context"],
        mask=known["hint_mask"][:, :1],
        image=known["hint_image"],
    )
    objective = Objective(nets, NoiseSchedule(), RECIPES["published"], case["max_steps"])
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

    groups = parameter_groups(nets)
    for group, expected in case["grad_norm_total"].items():
        norm = expected["norm"]
        if norm is None:
            assert all(p.grad is None for p in groups[group]), f"{group} must not learn"
        else:
            assert gradient_norm(groups[group]) == pytest.approx(norm, rel=1e-5), group


def parameter_groups(nets: SiameseNetworks) -> dict[str, list[nn.Parameter]]:
    """Parameters by the golden files' group names."""
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


def test_full_size_keys_are_the_published_ones(golden: Path) -> None:
    known = json.loads((golden / "full_keys.json").read_text(encoding="utf-8"))["keys"]
    with torch.device("meta"):
        tensors = {key: torch.empty(value["shape"]) for key, value in known.items()}
        unet = {
            key.removeprefix("model.diffusion_model."): value
            for key, value in tensors.items()
            if key.startswith("model.diffusion_model.")
        }
        shape = read_shape(unet, "SD 1.5")
        module = UNet2DConditionModel(**shape.diffusers_config())
        controlnet = new_controlnet(module, hint_channels=3)
    assert shape == UNetShape((320, 640, 1280, 1280), (True, True, True, False), 2, 768, False)
    control = {
        key.removeprefix("control_model."): value
        for key, value in tensors.items()
        if key.startswith("control_model.")
    }
    for renamed, expected in (
        (unet_to_diffusers(unet, shape, "UNet"), module.state_dict()),
        (control_to_diffusers(control, shape, "ControlNet"), controlnet.state_dict()),
    ):
        assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in expected.items()}
