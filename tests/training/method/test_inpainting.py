"""A known part of an image, in the terms of the network's output, by closed forms."""

from __future__ import annotations

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from siamese_diffusion.training.method.inpainting import Known
from siamese_diffusion.training.method.noise_schedule import (
    BETA_END,
    BETA_START,
    TIMESTEPS,
    NoiseSchedule,
    Prediction,
)
from torch import Tensor

SHAPE = (2, 4, 3, 5)


def random(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["epsilon", "v"])
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    prediction: Prediction = request.param
    return NoiseSchedule(prediction)


@pytest.mark.parametrize("timesteps", [torch.tensor([3, 900]), torch.tensor([3.25, 900.5])])
def test_what_is_known_is_implied_and_what_is_not_is_the_networks(
    schedule: NoiseSchedule, timesteps: Tensor
) -> None:
    latents, noise, noisy, output = map(random, range(4))
    sampled = torch.zeros(2, 1, 3, 5)
    sampled[..., 2:] = 1
    seen = []

    def network(shown: Tensor) -> Tensor:
        seen.append(shown)
        return output

    found = Known(latents, noise, sampled, schedule).output(network, noisy, timesteps)
    assert torch.allclose(found[..., 2:], output[..., 2:], atol=1e-4)
    implied = schedule.predict_latents(noisy, found, timesteps)
    assert torch.allclose(implied[..., :2], latents[..., :2], atol=1e-4)
    (shown,) = seen
    assert torch.equal(shown[..., 2:], noisy[..., 2:])
    known = schedule.add_noise(latents, noise, timesteps)
    assert torch.equal(shown[..., :2], known[..., :2])


def test_half_known_latents_lie_half_way() -> None:
    schedule, timesteps = NoiseSchedule(), torch.tensor([500, 500])
    latents, noisy = random(0), random(1)
    clean = random(2)

    def network(shown: Tensor) -> Tensor:
        return schedule.implied_output(shown, clean, timesteps)

    half = torch.full((2, 1, 3, 5), 0.5)
    found = Known(latents, random(3), half, schedule).output(network, noisy, timesteps)
    implied = schedule.predict_latents(noisy, found, timesteps)
    assert torch.allclose(implied, (latents + clean) / 2, atol=1e-4)


def test_between_two_timesteps_noise_is_as_samplers_have_it() -> None:
    scheduler = EulerDiscreteScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        use_karras_sigmas=True,
    )
    scheduler.set_timesteps(7)
    timesteps = scheduler.timesteps
    assert (timesteps % 1 > 0).any()
    ones, none = torch.ones(len(timesteps), 1, 1, 1), torch.zeros(len(timesteps), 1, 1, 1)
    schedule = NoiseSchedule()
    noise, signal = (
        schedule.add_noise(*pair, timesteps).flatten() for pair in ((none, ones), (ones, none))
    )
    assert torch.allclose(noise / signal, scheduler.sigmas[:-1], rtol=1e-3)
    assert torch.allclose(noise**2 + signal**2, torch.ones(7), atol=1e-6)
