"""Networks and objective against the published code's numbers (tests/data)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from siamese_diffusion.training.method.ldm_keys import (
    UNetShape,
    control_to_diffusers,
    read_shape,
    unet_to_diffusers,
)
from siamese_diffusion.training.method.networks import SiameseNetworks, new_controlnet
from support.oracle import ORACLE
from support.published_networks import (
    assert_gradient_norms,
    published_batch,
    published_objective,
    under,
)
from torch import Tensor

pytest_plugins = ["support.published_networks"]


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def test_networks_agree_with_the_published_ones(nets: SiameseNetworks) -> None:
    known = ORACLE.tensors
    noisy, timesteps, text = known["x_noisy"], known["timesteps"], known["context"]
    with torch.no_grad():
        controls = {
            name: nets.control(noisy, timesteps, text, known[f"hint_{name}"])
            for name in ("mask", "image")
        }
        encoded = nets.encode(noisy, timesteps, text)
        joint = controls["mask"].weighted_sum(controls["image"], 1.0, 0.4)
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


def cases() -> Iterator[Any]:
    """All of the oracle; the first alone is quick."""
    for number, (name, case) in enumerate(ORACLE.cases.items()):
        yield pytest.param(case, id=name, marks=[pytest.mark.slow] if number else [])


@pytest.mark.parametrize("case", [*cases()])
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


@pytest.mark.slow
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
