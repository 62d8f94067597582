"""The nodes' networks and sampler compute what the published code computes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from seeded_weights import load_model, relative_error, seeded, seeded_dhi, unet_shapes, weight_file
from siamese_diffusion.benchmarks.sampling import Inputs, Networks, published_sampling
from siamese_diffusion.models.dhi import DenseHintInput
from siamese_diffusion.models.weights import Kind, StateDict
from torch import Tensor

pytest_plugins = ["comfy_inside"]

DATA = Path(__file__).parent / "data"
NETWORK_TOLERANCE = 2e-5
SAMPLER_TOLERANCE = 5e-4
LATENT_SCALE = 0.18215  # of ComfyUI's latents between nodes: published latent / scale


@pytest.mark.parametrize("hint", ["mask", "image"])
def test_dhi_computes_the_published_features(hint: str) -> None:
    golden = load_file(DATA / "dhi_golden.safetensors")
    dhi = DenseHintInput(3)
    dhi.load_state_dict(seeded_dhi())
    with torch.no_grad():
        features = dhi(golden[f"hint_{hint}"])
    assert relative_error(features, golden[f"out_{hint}"]) < NETWORK_TOLERANCE


@pytest.fixture(scope="module")
def golden_weights(shared: Path) -> StateDict:
    """The reduced published model, regenerated and checked against its fingerprints."""
    description = json.loads((shared / "golden" / "control_small.json").read_text("utf-8"))
    shapes = {**description["control_state_dict"], **description["unet_state_dict"]}
    tensors = {key: seeded(key, shape) for key, shape in shapes.items()}
    for key, check in description["weight_checks"].items():
        total = tensors[key].double().sum().item()
        assert total == pytest.approx(check["sum"], abs=1e-6 * check["abs_sum"]), key
    return tensors


@pytest.fixture(scope="module")
def golden(pack: SimpleNamespace, golden_weights: StateDict) -> SimpleNamespace:
    """The same model as ComfyUI loads it: `model` and `control`."""
    merged = weight_file(golden_weights, Kind.MERGED)
    return SimpleNamespace(
        model=load_model(pack, merged.base()), control=pack.control.load_control(merged)
    )


@pytest.fixture(scope="module")
def published(shared: Path) -> StateDict:
    return load_file(shared / "golden" / "control_small.safetensors")


def control_outputs(control: Any, published: StateDict, hint: str) -> dict[str, list[Tensor]]:
    """What a copy with that hint passes to the UNet, in ComfyUI's order."""
    copy = control.copy().set_cond_hint(published[f"hint_{hint}"])
    x = published["x_noisy"]
    return copy.control_model(
        x=x,
        hint=None,
        features=copy._features_for(x, 1),
        timesteps=published["timesteps"].float(),
        context=published["context"],
    )


def test_the_reduced_model_has_the_published_keys(
    golden_weights: StateDict, pack: SimpleNamespace
) -> None:
    unet = unet_shapes(channel_mult=(1, 2))
    assert all(tuple(golden_weights[key].shape) == shape for key, shape in unet.items())


@pytest.mark.parametrize("hint", ["mask", "image"])
@pytest.mark.usefixtures("inference")
def test_control_outputs_are_the_published_ones(
    golden: SimpleNamespace, published: StateDict, hint: str
) -> None:
    found = control_outputs(golden.control, published, hint)
    for i, output in enumerate([*found["output"], *found["middle"]]):
        assert relative_error(output, published[f"control_{hint}_{i}_f32"]) < NETWORK_TOLERANCE


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize("case", ["nocontrol", "mask", "joint"])
def test_predicted_noise_is_the_published_one(
    golden: SimpleNamespace, published: StateDict, case: str
) -> None:
    control = None
    if case != "nocontrol":
        control = control_outputs(golden.control, published, "mask")
    if control and case == "joint":
        image = control_outputs(golden.control, published, "image")
        control = {
            key: [a + 0.4 * b for a, b in zip(control[key], image[key], strict=True)]
            for key in control
        }
    noise = golden.model.model.diffusion_model(
        published["x_noisy"], published["timesteps"], published["context"], control=control
    )
    assert relative_error(noise, published[f"eps_{case}_f32"]) < NETWORK_TOLERANCE


@pytest.mark.usefixtures("inference")
def test_sampling_is_the_published_ddim(
    pack: SimpleNamespace, golden: SimpleNamespace, shared: Path
) -> None:
    expected = load_file(shared / "golden" / "ddim_small.safetensors")
    positive, negative = pack.conditioning.apply_mask(
        [[expected["context"], {}]],
        [[expected["uncond_context"], {}]],
        golden.control,
        expected["hint_mask"][:, 0],
    )
    settings = pack.sampling.Settings(10, 9.0, "ddim", pack.sampling.PUBLISHED_SCHEDULER, seed=0)
    latents = pack.sampling.sample(golden.model, expected["x_T"], positive, negative, settings)
    assert relative_error(latents * LATENT_SCALE, expected["final_f32"]) < SAMPLER_TOLERANCE


@pytest.mark.usefixtures("inference")
def test_the_benchmark_compares_with_the_published_ddim(
    golden: SimpleNamespace, shared: Path
) -> None:
    expected = load_file(shared / "golden" / "ddim_small.safetensors")
    names = ("hint_mask", "x_T", "context", "uncond_context")
    mask, noise, text, empty = (expected[name] for name in names)
    inputs = Inputs(mask[:, 0], noise, text, empty)
    networks = Networks(golden.model, golden.control)
    latents = published_sampling(networks, inputs, steps=10, cfg=9.0, step_done=lambda: None)
    assert relative_error(latents, expected["final_f32"]) < SAMPLER_TOLERANCE
