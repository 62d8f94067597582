"""The nodes' networks and sampler compute what the published code computes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from siamese_diffusion.benchmarks.sampling import Inputs, Networks, published_sampling
from siamese_diffusion.models.dhi import DenseHintInput
from siamese_diffusion.models.kinds import Kind
from siamese_diffusion.models.weights import StateDict
from siamese_diffusion.tools.comfy_host import ROOT
from support.needs import Need
from support.oracle import ORACLE
from support.seeded_weights import load_model, relative_error, seeded_dhi, unet_shapes, weight_file
from torch import Tensor

pytest_plugins = ["support.comfy_inside"]
pytestmark = pytest.mark.slow  # networks of the published width

PUBLISHED = ORACLE.tensors
NETWORK_TOLERANCE = 2e-5
SAMPLER_TOLERANCE = 5e-4
LATENT_SCALE = 0.18215  # of ComfyUI's latents between nodes: published latent / scale


@pytest.mark.parametrize("hint", ["mask", "image"])
def test_dhi_computes_the_published_features(hint: str) -> None:
    dhi = DenseHintInput(3)
    dhi.load_state_dict(seeded_dhi())
    with torch.no_grad():
        features = dhi(PUBLISHED[f"hint_{hint}"])
    assert relative_error(features, PUBLISHED[f"out_{hint}_f32"]) < NETWORK_TOLERANCE


@pytest.fixture(scope="module")
def golden(pack: SimpleNamespace) -> SimpleNamespace:
    """The oracle's networks as ComfyUI loads them: `model` and `control`."""
    merged = weight_file(ORACLE.weights(), Kind.MERGED)
    return SimpleNamespace(
        model=load_model(pack, merged.base()), control=pack.control.load_control(merged)
    )


def control_outputs(control: Any, hint: str) -> dict[str, list[Tensor]]:
    """What a copy with that hint passes to the UNet, in ComfyUI's order."""
    copy = control.copy().set_cond_hint(PUBLISHED[f"hint_{hint}"])
    x = PUBLISHED["x_noisy"]
    return copy.control_model(
        x=x,
        hint=None,
        features=copy._features_for(x, 1),
        timesteps=PUBLISHED["timesteps"].float(),
        context=PUBLISHED["context"],
    )


@pytest.mark.usefixtures("pack")
def test_the_reduced_unet_of_the_tests_has_the_published_keys() -> None:
    for key, shape in unet_shapes(channel_mult=(1, 2)).items():
        assert tuple(ORACLE.small[key]["shape"]) == shape


@pytest.mark.parametrize("hint", ["mask", "image"])
@pytest.mark.usefixtures("inference")
def test_control_outputs_are_the_published_ones(golden: SimpleNamespace, hint: str) -> None:
    found = control_outputs(golden.control, hint)
    for i, output in enumerate([*found["output"], *found["middle"]]):
        assert relative_error(output, PUBLISHED[f"control_{hint}_{i}_f32"]) < NETWORK_TOLERANCE


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize("case", ["nocontrol", "mask", "joint"])
def test_predicted_noise_is_the_published_one(golden: SimpleNamespace, case: str) -> None:
    control = None
    if case != "nocontrol":
        control = control_outputs(golden.control, "mask")
    if control and case == "joint":
        image = control_outputs(golden.control, "image")
        control = {
            key: [a + 0.4 * b for a, b in zip(control[key], image[key], strict=True)]
            for key in control
        }
    noise = golden.model.model.diffusion_model(
        PUBLISHED["x_noisy"], PUBLISHED["timesteps"], PUBLISHED["context"], control=control
    )
    assert relative_error(noise, PUBLISHED[f"eps_{case}_f32"]) < NETWORK_TOLERANCE


@pytest.mark.usefixtures("inference")
def test_sampling_is_the_published_ddim(pack: SimpleNamespace, golden: SimpleNamespace) -> None:
    positive, negative = pack.conditioning.apply_mask(
        [[PUBLISHED["context"], {}]],
        [[PUBLISHED["uncond_context"], {}]],
        golden.control,
        PUBLISHED["hint_mask"][:, 0],
    )
    settings = pack.sampling.Settings(10, 9.0, "ddim", pack.sampling.PUBLISHED_SCHEDULER, seed=0)
    latents = pack.sampling.sample(golden.model, PUBLISHED["x_T"], positive, negative, settings)
    assert relative_error(latents * LATENT_SCALE, PUBLISHED["final_f32"]) < SAMPLER_TOLERANCE


@pytest.mark.usefixtures("inference")
def test_the_benchmark_compares_with_the_published_ddim(golden: SimpleNamespace) -> None:
    names = ("hint_mask", "x_T", "context", "uncond_context")
    mask, noise, text, empty = (PUBLISHED[name] for name in names)
    inputs = Inputs(mask[:, 0], noise, text, empty)
    networks = Networks(golden.model, golden.control)
    latents = published_sampling(networks, inputs, steps=10, cfg=9.0, step_done=lambda: None)
    assert relative_error(latents, PUBLISHED["final_f32"]) < SAMPLER_TOLERANCE


def test_the_oracle_is_what_it_was_taken_from() -> None:
    """Of use where the complete reference outputs lie beside the checkout."""
    folder = Path(os.environ.get("SIAMESE_SHARED", ROOT.parent / "shared")) / "golden"
    if not folder.is_dir():
        Need.SHARED.skip()
    whole: StateDict = {}
    for path in folder.glob("*.safetensors"):
        whole |= load_file(path)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in PUBLISHED.items())
    cases = json.loads((folder / "loss_small.json").read_text("utf-8"))["cases"]["float32"]
    assert {n: c["total"] for n, c in ORACLE.cases.items()} == {
        n: c["total"] for n, c in cases.items()
    }
