"""The published training procedure, plainly: what the benchmarks compare with, used nowhere else.

Same mathematics as training/objective.py with the recipe `published`; what costs more is kept: a
copy of every network at each step, the mask's control computed twice, the encoder run for each
branch, the augmentation for the whole batch, one backward pass over everything. It runs on our
modules, so that both sides of a comparison have the same layers and see the same batch. Left out,
in its favour: the published configuration also recomputes activations (gradient checkpointing).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ..training.method.networks import SiameseNetworks
from ..training.method.noise_schedule import NoiseSchedule
from ..training.method.objective import (
    AUGMENTATION_MAX_TIMESTEP,
    AUGMENTATION_START,
    Batch,
    Losses,
    per_sample_mse,
)


@dataclass(frozen=True)
class PublishedObjective:
    """Loss terms of one step with their graphs; the caller runs one backward of their sum."""

    nets: SiameseNetworks
    schedule: NoiseSchedule
    max_steps: int

    def losses(self, batch: Batch, step: int) -> Losses:
        """Loss terms by name, each per sample (B,), as `Objective.losses` returns them."""
        noisy = self.schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
        output_mask = self._mask_branch(batch, noisy)
        output_image = self._image_branch(batch, noisy, step / self.max_steps)
        losses = {
            "mask": per_sample_mse(output_mask, batch.noise),
            "image": per_sample_mse(output_image, batch.noise),
            "consistency": per_sample_mse(output_mask, output_image.detach()),
        }
        counts = batch.timesteps <= AUGMENTATION_MAX_TIMESTEP
        if step > self.max_steps * AUGMENTATION_START and counts.any():
            predicted = self.schedule.predict_latents(noisy, output_image, batch.timesteps)
            noisy = self.schedule.add_noise(predicted, batch.noise, batch.timesteps).detach()
            terms = per_sample_mse(self._mask_branch(batch, noisy), batch.noise)
            losses["augmentation"] = terms * counts
        return losses

    def _mask_branch(self, batch: Batch, noisy: Tensor) -> Tensor:
        nets, timesteps, text = self.nets, batch.timesteps, batch.text
        control = nets.control(noisy, timesteps, text, batch.mask.expand(-1, 3, -1, -1))
        return nets.decode(nets.encode(noisy, timesteps, text), text, control)

    def _image_branch(self, batch: Batch, noisy: Tensor, weight: float) -> Tensor:
        """Through copies, whose gradients nobody reads; only the image's control trains."""
        timesteps, text = batch.timesteps, batch.text
        copied = copy.deepcopy(self.nets)
        copied.controlnet.requires_grad_(False)
        control_image = self.nets.control(noisy, timesteps, text, batch.image)
        with torch.no_grad():
            mask = batch.mask.expand(-1, 3, -1, -1)
            control_mask = copied.control(noisy, timesteps, text, mask)
        joint = control_mask.weighted_sum(control_image, 1.0, weight)
        return copied.decode(copied.encode(noisy, timesteps, text), text, joint)
