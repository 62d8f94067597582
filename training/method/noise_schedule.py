"""The noise schedule of Stable Diffusion 1.x and 2.x, as the published code computes it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

TIMESTEPS = 1000
BETA_START = 0.00085
BETA_END = 0.012

Prediction = Literal["epsilon", "v"]


class NoiseSchedule:
    """z_t = a_t z0 + s_t eps, with a_t^2 + s_t^2 = 1 and t in 0..999.

    The scaled-linear betas are accumulated in float64 and stored in float32, as published.
    zero_terminal_snr: a_t is shifted and scaled so that a_999 = 0 and a_0 stays (arXiv 2305.08891);
    for "v" only.
    """

    def __init__(
        self,
        prediction: Prediction = "epsilon",
        device: torch.device | str = "cpu",
        zero_terminal_snr: bool = False,
    ) -> None:
        betas = np.linspace(BETA_START**0.5, BETA_END**0.5, TIMESTEPS, dtype=np.float64) ** 2
        alphas_cumprod = np.cumprod(1.0 - betas)
        if zero_terminal_snr:
            signal = np.sqrt(alphas_cumprod)
            first, last = signal[0], signal[-1]
            alphas_cumprod = ((signal - last) * first / (first - last)) ** 2
        self.prediction = prediction
        self.zero_terminal_snr = zero_terminal_snr
        self._signal = torch.tensor(np.sqrt(alphas_cumprod), dtype=torch.float32, device=device)
        self._noise = torch.tensor(np.sqrt(1 - alphas_cumprod), dtype=torch.float32, device=device)

    def _coefficients(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, 1, 1, 1)
        if timesteps.is_floating_point():
            signal, noise = self._between(timesteps)
        else:
            signal, noise = self._signal[timesteps], self._noise[timesteps]
        return signal.to(like.dtype).view(shape), noise.to(like.dtype).view(shape)

    def _between(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t of timesteps such as 3.5: log(s_t / a_t) in between, as samplers have it."""
        below = timesteps.floor().long()
        above = timesteps.ceil().long()
        low, high = (self.noise_to_signal(each).log() for each in (below, above))
        ratio = torch.lerp(low, high, timesteps.frac().to(low.dtype)).exp()
        signal = (1 + ratio**2).rsqrt()
        return signal, ratio * signal

    def noise_to_signal(self, timesteps: Tensor) -> Tensor:
        """s_t / a_t of timesteps (B,)."""
        return self._noise[timesteps] / self._signal[timesteps]

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """q_sample: latents and noise (B, 4, h, w), timesteps (B,) -> z_t."""
        signal, sigma = self._coefficients(timesteps, latents)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should predict: the noise, or v = a_t eps - s_t z0."""
        if self.prediction == "epsilon":
            return noise
        signal, sigma = self._coefficients(timesteps, latents)
        return signal * noise - sigma * latents

    def predict_latents(self, noisy: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
        """z0 as the network's output implies it."""
        signal, sigma = self._coefficients(timesteps, noisy)
        if self.prediction == "epsilon":
            return (noisy - sigma * output) / signal
        return signal * noisy - sigma * output

    def implied_output(self, noisy: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The output from which `predict_latents` makes these latents."""
        signal, sigma = self._coefficients(timesteps, noisy)
        noise = (noisy - signal * latents) / sigma
        return noise if self.prediction == "epsilon" else signal * noise - sigma * latents
