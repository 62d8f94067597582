"""Losses and noise schedules of sd-scripts, against its own functions, torch and closed forms."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from siamese_diffusion.training.hosts.sd_scripts.library import Library
from siamese_diffusion.training.method.distance import make_distance
from siamese_diffusion.training.method.noise_schedule import BETA_END, BETA_START, NoiseSchedule
from torch.nn import functional

pytest_plugins = ["support.sd_scripts_fixtures"]
TIMESTEPS = torch.tensor([0, 10, 500, 999])
OUTPUT = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 3
TARGET = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(1))


def test_squares_and_absolute_values_are_torchs() -> None:
    for name, expected in (("l2", functional.mse_loss), ("l1", functional.l1_loss)):
        found = make_distance(name, "snr", 0.1, 1.0, NoiseSchedule())(OUTPUT, TARGET, TIMESTEPS)
        torch.testing.assert_close(found, expected(OUTPUT, TARGET, reduction="none"))


@pytest.mark.parametrize("loss", ["huber", "smooth_l1"])
@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
def test_huber_is_that_of_sd_scripts(loss: str, schedule: str, library: Library) -> None:
    args = SimpleNamespace(loss_type=loss, huber_schedule=schedule, huber_c=0.2, huber_scale=1.5)
    scheduler = DDPMScheduler(1000, BETA_START, BETA_END, beta_schedule="scaled_linear")
    train_util = library.train_util
    c = train_util.get_huber_threshold_if_needed(args, TIMESTEPS, scheduler)
    expected = train_util.conditional_loss(OUTPUT, TARGET, loss, "none", c)
    found = make_distance(loss, schedule, 0.2, 1.5, NoiseSchedule())(OUTPUT, TARGET, TIMESTEPS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_huber_is_square_near_zero_and_linear_far_from_it() -> None:
    distance = make_distance("huber", "constant", 0.5, 1.0, NoiseSchedule())
    times, zero = torch.zeros(1, dtype=torch.long), torch.zeros(1, 1)
    near, far = torch.full((1, 1), 1e-2), torch.full((1, 1), 1e3)
    assert float(distance(near, zero, times)) == pytest.approx(1e-4, rel=1e-2)
    assert float(distance(far, zero, times)) == pytest.approx(2 * 0.5 * (1e3 - 0.5), rel=1e-4)


def test_the_schedule_without_terminal_signal_is_that_of_diffusers() -> None:
    theirs = DDPMScheduler(
        1000, BETA_START, BETA_END, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    ours = NoiseSchedule("v", zero_terminal_snr=True)
    ones = torch.ones(1000, 1, 1, 1)
    signal = ours.add_noise(ones, ones * 0, torch.arange(1000)).flatten()
    torch.testing.assert_close(signal, theirs.alphas_cumprod.sqrt(), rtol=1e-4, atol=1e-4)
    assert float(signal[-1]) == pytest.approx(0, abs=1e-7)
    # With v the image can be told at the last step too, and is what the output says.
    last = torch.tensor([999])
    output = -ours.target(TARGET[:1], OUTPUT[:1], last)
    predicted = ours.predict_latents(OUTPUT[:1], -output, last)
    torch.testing.assert_close(predicted, TARGET[:1], rtol=1e-4, atol=1e-4)
