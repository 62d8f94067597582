"""The Siamese-Diffusion objective; (n) are the equations of docs/method.md.

Source: published file `cldm/cldm.py`, p_losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from einops import reduce, repeat
from torch import Tensor
from torch.nn import functional

from ...models.recipe import Recipe
from .distance import Distance, squared
from .networks import Control, Decode, SiameseNetworks
from .noise_schedule import NoiseSchedule

AUGMENTATION_MAX_TIMESTEP = 200
AUGMENTATION_START = 1 / 3

Backpropagate = Callable[[Tensor], None]
Losses = dict[str, Tensor]  # per sample (B,), by name


@dataclass(frozen=True)
class Batch:
    """What one step is trained on, all on one device.

    latents, noise: (B, 4, h, w), latents scaled to about unit variance; timesteps: (B,) in 0..999;
    text: (B, 77, D); mask: (B, 1 or 3, 8h, 8w) in [0, 1], 3 for palette masks;
    image: (B, 3, 8h, 8w) in [0, 1]. Before `to` both may be as in their files: uint8 or bool.
    input_noise: (B, 4, h, w) or None, noise on the networks' input that they do not predict.
    augmented: indices (b,) of the samples with t <= 200, or None until they are asked for.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text: Tensor
    mask: Tensor
    image: Tensor
    input_noise: Tensor | None = None
    augmented: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """On a device, with pictures in float32."""
        # Their number is looked at here, so that nobody waits for the device to tell it later.
        known = replace(self, augmented=self.rows_to_augment())
        moved = known._map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, mask=as_floats(moved.mask), image=as_floats(moved.image))

    def pin_memory(self) -> Batch:
        """In memory from which a GPU copies while the CPU goes on."""
        return self._map(Tensor.pin_memory)

    def rows(self, start: int, stop: int) -> Batch:
        """Samples start..stop - 1."""
        return replace(self, augmented=None)._map(lambda tensor: tensor[start:stop])

    def rows_to_augment(self) -> Tensor:
        """Indices (b,) of the samples with t <= 200, on the batch's device."""
        if self.augmented is not None:
            return self.augmented
        return (self.timesteps <= AUGMENTATION_MAX_TIMESTEP).nonzero().flatten()

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {k: t if t is None else change(t) for k, t in tensors.items()}
        return Batch(**changed)

    @property
    def noise_in_input(self) -> Tensor:
        """The noise that the networks' input is mixed with."""
        return self.noise if self.input_noise is None else self.noise + self.input_noise


def as_floats(pictures: Tensor) -> Tensor:
    """uint8 of 0..255, or bool, in [0, 1] as float32; floats as they are."""
    if pictures.dtype == torch.uint8:
        # By a tensor: by a plain number a GPU multiplies with 1/255, which rounds otherwise.
        return pictures.float() / torch.full((), 255.0, device=pictures.device)
    return pictures.float() if pictures.dtype == torch.bool else pictures


@dataclass(frozen=True)
class Objective:
    """The loss terms of one step as a function of the batch; holds what does not change."""

    nets: SiameseNetworks
    schedule: NoiseSchedule
    recipe: Recipe
    max_steps: int
    distance: Distance = squared

    def losses(self, batch: Batch, step: int, backpropagate: Backpropagate | None = None) -> Losses:
        """Losses by name, each per sample (B,): image, mask, consistency, augmentation.

        The objective is the mean over the batch of their sum, (9). `backpropagate`, when given, is
        called with a loss (B,) as soon as nothing later needs its graph, so that the image branch's
        memory is free before the mask branch's decoder runs; the returned losses are then detached.
        """
        done = backpropagate or _keep_graph
        noisy = self.schedule.add_noise(batch.latents, batch.noise_in_input, batch.timesteps)
        target = self.schedule.target(batch.latents, batch.noise, batch.timesteps)
        hint_mask = mask_hint(self.recipe, batch.mask)
        encoded = self.nets.encode(noisy, batch.timesteps, batch.text)
        control_mask = self.nets.control(noisy, batch.timesteps, batch.text, hint_mask)  # (1)

        losses: Losses = {}
        output_image = None
        if self.recipe.has_image_branch:
            with self._image_branch_decoder() as decode:
                hint_image = image_hint(self.recipe, batch.mask, batch.image)
                # (2)
                control_image = self.nets.control(noisy, batch.timesteps, batch.text, hint_image)
                ramp = self.recipe.image_weight == "ramp"
                weight = step / self.max_steps if ramp else 1.0
                joint = joint_control(self.recipe, control_mask, control_image, weight)
                output_image = decode(encoded, batch.text, joint)  # (4)
                losses["image"] = self._loss(output_image, target, batch.timesteps)  # L_i, (6)
                done(losses["image"])
            del control_image, joint
            output_image = output_image.detach()

        output_mask = self.nets.decode(encoded, batch.text, control_mask)  # (3)
        losses["mask"] = self._loss(output_mask, target, batch.timesteps)  # L_m, (5)
        if output_image is not None:
            pixel_weight = consistency_weight(self.recipe, batch.mask, output_mask.shape[-2:])
            # L_c, (7)
            losses["consistency"] = self._loss(
                output_mask, output_image, batch.timesteps, pixel_weight
            )
        done(losses["mask"] + losses.get("consistency", 0.0))
        del control_mask, output_mask

        augmented = self.recipe.augmentation == "online"
        if output_image is not None and augmented and step > self.max_steps * AUGMENTATION_START:
            with no_kernel_trials():
                losses["augmentation"] = self._augmentation(
                    batch, hint_mask, noisy, output_image, done
                )
        return {n: v.detach() for n, v in losses.items()} if backpropagate else losses

    def _loss(
        self, output: Tensor, target: Tensor, timesteps: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Of each sample (B,)."""
        return per_sample_loss(output, target, timesteps, self.distance, weight)

    def _image_branch_decoder(self) -> AbstractContextManager[Decode]:
        if self.recipe.image_updates == "control_and_decoder":
            return nullcontext(self.nets.decode)
        return self.nets.frozen_decoder()

    def _augmentation(
        self,
        batch: Batch,
        hint_mask: Tensor,
        noisy: Tensor,
        output_image: Tensor,
        done: Backpropagate,
    ) -> Tensor:
        """L_a, (8), per sample (B,): the mask branch on latents as the image branch predicts them.

        Same noise and timesteps as the other terms. Zero, at no cost, for samples with t > 200.
        """
        rows = batch.rows_to_augment()
        zeros = torch.zeros(len(batch.timesteps), device=noisy.device)
        if not len(rows):
            return zeros
        timesteps, text, noise = batch.timesteps[rows], batch.text[rows], batch.noise[rows]
        predicted = self.schedule.predict_latents(noisy[rows], output_image[rows], timesteps)
        noisy = self.schedule.add_noise(predicted, noise, timesteps)
        control = self.nets.control(noisy, timesteps, text, hint_mask[rows])
        output = self.nets.decode(self.nets.encode(noisy, timesteps, text), text, control)
        target = self.schedule.target(predicted, noise, timesteps)
        augmented = self._loss(output, target, timesteps)
        loss = zeros.to(augmented.dtype).index_copy(0, rows, augmented)
        done(loss)
        return loss


@contextmanager
def no_kernel_trials() -> Iterator[None]:
    """cuDNN tries out no kernels within: for shapes that change from step to step.

    The number of augmented samples does; trying out every convolution anew for each number took
    seconds a step on an H100, where the rest of the step took half a second.
    """
    chosen = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = chosen


def mask_hint(recipe: Recipe, mask: Tensor) -> Tensor:
    """DHI input of the mask branch (B, C, H, W) in [0, 1]; mask (B, 1 or 3, H, W)."""
    if recipe.image_hint == "image_and_mask":
        return functional.pad(mask, (0, 0, 0, 0, 3, 0))
    return repeat(mask, "b c h w -> b (n c) h w", n=3 // mask.shape[1])


def image_hint(recipe: Recipe, mask: Tensor, image: Tensor) -> Tensor:
    """DHI input of the image branch (B, C, H, W) in [0, 1]."""
    return torch.cat([image, mask], 1) if recipe.image_hint == "image_and_mask" else image


def joint_control(recipe: Recipe, mask: Control, image: Control, weight: float) -> Control:
    """Control of the image branch, in (4); `weight` is w."""
    mask_weight = 1.0 if recipe.joint_control == "add" else 1.0 - weight
    return mask.detach().weighted_sum(image, mask_weight, weight)


def consistency_weight(recipe: Recipe, mask: Tensor, size: torch.Size) -> Tensor | None:
    """Weight of L_c (B, 1, h, w), (10), or None for 1 everywhere.

    "area": lesion pixels weigh 1 - area, background pixels area, the lesion's share of the image.
    """
    if recipe.consistency == "uniform":
        return None
    lesion = (reduce(mask, "b c h w -> b 1 h w", "max") > 0).to(mask.dtype)  # of any class
    area = reduce(lesion, "b 1 h w -> b 1 1 1", "mean")
    lesion = functional.adaptive_avg_pool2d(lesion, (size[0], size[1]))
    return lesion * (1 - area) + (1 - lesion) * area


def per_sample_mse(output: Tensor, target: Tensor) -> Tensor:
    """(B, ...) -> (B,): mean over all but the batch of the squared difference."""
    return per_sample_loss(output, target, torch.zeros(len(output)), squared)


def per_sample_loss(
    output: Tensor,
    target: Tensor,
    timesteps: Tensor,
    distance: Distance,
    weight: Tensor | None = None,
) -> Tensor:
    """(B, ...) -> (B,): mean over all but the batch of the (weighted) distance."""
    # Half precision would round small differences away.
    full = torch.promote_types(output.dtype, torch.float32)
    values = distance(output.to(full), target.to(full), timesteps)
    if weight is not None:
        values = values * weight.to(full)
    return reduce(values, "b c h w -> b", "mean")


def _keep_graph(_loss: Tensor) -> None:
    """Without `backpropagate`, the caller gets the graphs."""
