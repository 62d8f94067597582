"""Low-rank networks against whole ones, on a tiny Stable Diffusion."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.tuners.lora import LoraLayer
from siamese_diffusion.models.kinds import UNET, Kind
from siamese_diffusion.models.low_rank import expanded
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import StateDict, WeightFile, WeightsError
from siamese_diffusion.training.method.bundle import bundle_tensors
from siamese_diffusion.training.method.ldm_keys import UNetShape, unet_to_ldm
from siamese_diffusion.training.method.low_rank import ADAPTER, base_weights, make_low_rank
from siamese_diffusion.training.method.networks import SiameseNetworks, new_controlnet
from siamese_diffusion.training.method.noise_schedule import NoiseSchedule
from siamese_diffusion.training.method.objective import Batch, Objective
from torch import Tensor

pytestmark = pytest.mark.slow  # whole steps of training

SHAPE = UNetShape((32, 64), (True, False), 1, 16, False)
LARGE = 1 << 12  # a rank that no weight here exceeds


def networks() -> SiameseNetworks:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SHAPE.diffusers_config())
    return SiameseNetworks(unet, new_controlnet(unet, 3))


def base_tensors() -> StateDict:
    return unet_to_ldm(networks().unet.state_dict(), SHAPE)


def low_rank(dim: int, alpha: float) -> SiameseNetworks:
    nets = networks()
    torch.manual_seed(1)
    make_low_rank(nets, dim, alpha)
    return nets


def batch() -> Batch:
    values = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 8, 8, generator=values)
    return Batch(
        latents=latents,
        noise=torch.randn(latents.shape, generator=values),
        timesteps=torch.tensor([20, 700]),
        text=torch.randn(2, 77, 16, generator=values),
        mask=torch.rand(2, 1, 64, 64, generator=values).round(),
        image=torch.rand(2, 3, 64, 64, generator=values),
    )


def outputs(nets: SiameseNetworks) -> Tensor:
    given = batch()
    hint = given.mask.expand(-1, 3, -1, -1)
    with torch.no_grad():
        control = nets.control(given.noise, given.timesteps, given.text, hint)
        encoded = nets.encode(given.noise, given.timesteps, given.text)
        return nets.decode(encoded, given.text, control)


def trained(nets: SiameseNetworks, steps: int = 3) -> SiameseNetworks:
    """After a few steps on one batch, so that nothing is zero."""
    parameters = [p for p in nets.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    objective = Objective(nets, NoiseSchedule(), RECIPES["published"], 10)
    for step in range(4, 4 + steps):
        losses = objective.losses(batch(), step)
        torch.stack([term.sum() for term in losses.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return nets


def file(nets: SiameseNetworks) -> WeightFile:
    tensors = {key: value.clone() for key, value in bundle_tensors(nets, SHAPE).items()}
    return WeightFile(Path("low.safetensors"), Kind.LOW_RANK, tensors, {})


def test_it_begins_as_the_base_and_trains_its_factors_alone() -> None:
    nets, whole = low_rank(4, 4), networks()
    torch.testing.assert_close(outputs(nets), outputs(whole))
    frozen = [weight.clone() for weight in base_weights(nets)]
    before = outputs(nets)
    trained(nets)
    assert all(map(torch.equal, base_weights(nets), frozen))
    assert not torch.allclose(outputs(nets), before, atol=1e-3)
    # The image branch has frozen the decoder in between, and has left its factors trainable.
    names = {name for name, p in nets.named_parameters() if p.requires_grad}
    assert any("up_blocks" in name and "lora_A" in name for name in names)
    assert not any(name.endswith("base_layer.weight") for name in names)
    assert sum(p.numel() for p in nets.parameters() if p.requires_grad) < sum(
        p.numel() for p in whole.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("alpha", [4.0, 1.5])
def test_the_bundle_expands_to_what_the_networks_compute(alpha: float) -> None:
    nets = trained(low_rank(4, alpha))
    whole = networks()
    weights = expanded(file(nets), base_tensors())
    assert weights.kind is Kind.BUNDLE
    expected = bundle_tensors(whole, SHAPE)
    assert weights.tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        tensor.copy_(weights.tensors[key])
    torch.testing.assert_close(outputs(whole), outputs(nets), rtol=1e-4, atol=1e-4)


def test_at_full_rank_it_is_what_training_the_whole_weights_has_made() -> None:
    """The factors of any change of whole weights, by its singular values, are such a bundle."""
    whole = trained(networks())
    nets = low_rank(LARGE, LARGE)
    mine, before = dict(nets.named_modules()), networks().state_dict()
    after = whole.state_dict()
    for name, layer in mine.items():
        if isinstance(layer, LoraLayer):
            change = (after[f"{name}.weight"] - before[f"{name}.weight"]).flatten(1)
            u, s, v = torch.linalg.svd(change.double(), full_matrices=False)
            down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            rank = len(s)
            down.data.zero_()
            up.data.zero_()
            down.data.flatten(1)[:rank] = v.float()
            up.data.flatten(1)[:, :rank] = (u * s).float()
    for name, parameter in nets.named_parameters():
        plain = name.replace(".base_layer.", ".")
        if plain in after and not name.endswith("base_layer.weight"):
            parameter.data.copy_(after[plain])
    torch.testing.assert_close(outputs(nets), outputs(whole), rtol=1e-4, atol=1e-4)
    merged = expanded(file(nets), base_tensors()).tensors
    for key, value in bundle_tensors(whole, SHAPE).items():
        torch.testing.assert_close(merged[key], value, rtol=1e-4, atol=1e-5)


def test_whole_weights_have_the_bases_number_format() -> None:
    halved = {key: value.half() for key, value in base_tensors().items()}
    tensors = expanded(file(trained(low_rank(4, 4))), halved).tensors
    key = f"{UNET}output_blocks.0.0.in_layers.2.weight"
    assert tensors[key].dtype is torch.float16


def test_factors_that_do_not_fit_are_an_error() -> None:
    weights, base = file(low_rank(4, 4)), base_tensors()
    key = "output_blocks.0.0.in_layers.2"
    with pytest.raises(WeightsError, match="the base model has no such weight"):
        expanded(weights, {k: v for k, v in base.items() if k != f"{key}.weight"})
    for name, tensor in (
        ("lora_up.weight", torch.ones(1, 4, 1, 1)),
        ("lora_down.weight", torch.ones(4, 3, 3, 3)),
        ("lora_down.weight", torch.ones(5, 96, 3, 3)),
        ("alpha", torch.ones(2)),
    ):
        damaged = copy.copy(weights.tensors) | {f"{UNET}{key}.{name}": tensor}
        with pytest.raises(WeightsError, match=r"factors of .* do not make its shape"):
            expanded(WeightFile(weights.path, weights.kind, damaged, {}), base)
