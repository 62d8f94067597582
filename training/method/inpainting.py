"""Sampling of a part of an image; the rest is known, and stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .noise_schedule import NoiseSchedule


@dataclass(frozen=True)
class Known:
    """An image that is kept where it is not sampled, by the rule of ComfyUI's noise masks.

    latents (B, 4, h, w), and the noise on them that the network sees, of the same shape. sampled:
    (B, 1, h, w), 1 where the image is sampled anew, 0 where it stays.
    """

    latents: Tensor
    noise: Tensor
    sampled: Tensor
    schedule: NoiseSchedule

    def output(
        self, network: Callable[[Tensor], Tensor], noisy: Tensor, timesteps: Tensor
    ) -> Tensor:
        """What a network that knows the image would say of noisy latents, timesteps (B,).

        It is shown the known part as noisy as the rest, and what it takes for the clean latents is
        replaced where they are known.
        """
        known = self.schedule.add_noise(self.latents, self.noise, timesteps)
        shown = torch.lerp(known, noisy, self.sampled)
        clean = self.schedule.predict_latents(shown, network(shown), timesteps)
        kept = torch.lerp(self.latents, clean, self.sampled)
        return self.schedule.implied_output(noisy, kept, timesteps)
