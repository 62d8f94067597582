"""What people see of a run: metrics, trackers, preview grids, loss curves, validation losses."""

from __future__ import annotations

import logging

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from ..config import TrainConfig
from ..data.batch_order import generator
from ..data.batches import TrainingData
from ..method.base_model import BaseModel
from ..method.objective import Objective
from ..method.sampling import Conditions, sample
from . import metrics
from .folder import RunFolder
from .pictures import grid, outline, plot_losses, save_image

log = logging.getLogger(__name__)

CURVES_EVERY = 50  # steps between drawings of the loss curves


class Reporter:
    """Writes metrics.jsonl, losses.png and sample/*.png, and feeds the trackers."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        base: BaseModel,
        data: TrainingData,
        objective: Objective,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.folder, self.base, self.data = config, folder, base, data
        self.objective, self.accelerator = objective, accelerator
        self._shown = data.examples(config.sample_count)

    def log_step(
        self, step: int, losses: dict[str, float], rate: float, seconds: float, bar: tqdm
    ) -> None:
        """One line of metrics: losses by name, learning rate, and seconds that the step took."""
        total = sum(losses.values())
        bar.set_postfix({"loss": f"{total:.4f}"} | {n: f"{v:.4f}" for n, v in losses.items()})
        values = {"loss": total, **{f"loss_{name}": value for name, value in losses.items()}}
        values |= {"learning_rate": rate, "seconds": seconds}
        if self.accelerator.device.type == "cuda":
            values["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._log(step, values)
        if step % CURVES_EVERY == 0 and self.accelerator.is_main_process:
            plot_losses(self.folder.metrics, self.folder.losses)

    def _log(self, step: int, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            metrics.append(self.folder.metrics, step, values)
        self.accelerator.log(values, step=step)

    @torch.no_grad()
    def validate(self, step: int, validation: TrainingData) -> None:
        """Log the mean losses of held-out pairs, so that they can be compared between steps.

        Noise, timesteps and weights are always the same: all losses are those of the last step,
        where w is 1 and the augmentation is on.
        """
        self.objective.nets.eval()
        sums: dict[str, float] = {}
        for batch in validation.validation_batches(self.config.train_batch_size, self.config.seed):
            with self.accelerator.autocast():
                losses = self.objective.losses(
                    batch.to(self.accelerator.device), self.config.max_train_steps
                )
            for name, values in losses.items():
                sums[name] = sums.get(name, 0.0) + float(values.sum())
        means = {name: total / len(validation) for name, total in sums.items()}
        headline = {"validation_mask": means.pop("mask")}  # of the branch that is sampled from
        self._log(step, headline | {f"validation_{name}": mean for name, mean in means.items()})

    def has_validated(self, step: int) -> bool:
        """Whether the metrics have a validation of that step."""
        lines = metrics.read(self.folder.metrics)
        return any(line["step"] == step and "validation_mask" in line for line in lines)

    @torch.no_grad()
    def preview(self, step: int) -> None:
        """Write the loss curves and the grid mask | real | sampled | outline (anonymous: no real).

        Masks, noise and captions are the same at every step, so that grids can be compared.
        """
        config, device = self.config, self.accelerator.device
        # First: a resumed run makes a preview that is missing, and both are there or made again.
        plot_losses(self.folder.metrics, self.folder.losses)
        self.objective.nets.eval()
        mask, image = self.data.masks_and_images(self._shown)
        conditions = self._conditions(mask)
        with self.accelerator.autocast():
            latents = sample(self.objective, conditions, config.sample_steps, config.sample_cfg)
        # In float32: Stable Diffusion's decoder overflows in half precision, to black images.
        module = self.base.autoencoder.module
        try:
            module.to(device)
            sampled = self.base.autoencoder.decode(latents.float()).cpu()
        finally:
            module.to("cpu")
        real = [] if config.anonymous else [image]
        image_grid = grid([mask, *real, sampled, outline(sampled, mask)])
        path = self.folder.preview(step)
        save_image(image_grid, path)
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"preview": np.asarray(image_grid)[None]}, step=step, **layout)
        log.info("Preview: %s", path)

    def _conditions(self, mask: torch.Tensor) -> Conditions:
        device, count = self.accelerator.device, len(self._shown)
        captions = [self.data.pairs[index].caption for index in self._shown]
        shape = (count, 4, mask.shape[-2] // 8, mask.shape[-1] // 8)
        noise = torch.randn(shape, generator=generator(self.config.seed, "preview", 0))
        return Conditions(
            mask=mask.to(device),
            text=self.data.texts.load(captions).to(device),
            empty_text=self.data.texts.load([""] * count).to(device),
            noise=noise.to(device),
        )
