"""What people see of a run: metrics, trackers, preview grids, loss curves, validation losses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from ..config import TrainConfig
from ..data.batch_order import generator
from ..data.batches import TrainingData
from ..method.base_model import BaseModel
from ..method.objective import Objective
from ..method.sampling import Conditions, sample
from . import metrics
from .background import Background
from .folder import RunFolder
from .pictures import decode, grid, outline, plot_losses, save_image

log = logging.getLogger(__name__)

# Steps between drawings of the loss curves; after LONG steps more, since each reads all so far.
CURVES_EVERY, LONG = 50, 5000

Part = tuple[int, int]  # (k, n): each n-th from the k-th on, the share of process k of n


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
        background: Background,
    ) -> None:
        self.config, self.folder, self.base, self.data = config, folder, base, data
        self.objective, self.accelerator = objective, accelerator
        self._background = background
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
        every = CURVES_EVERY * max(1, step // LONG)
        due = step % every == 0 and self.accelerator.is_main_process
        if due and not self._background.busy:
            self._background.start(self._plot)

    def _plot(self) -> None:
        plot_losses(self.folder.metrics, self.folder.losses)

    def _log(self, step: int, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            metrics.append(self.folder.metrics, step, values)
        self.accelerator.log(values, step=step)

    @torch.no_grad()
    def validation_sums(self, validation: TrainingData, part: Part) -> dict[int, dict[str, float]]:
        """Sums of losses by name, by number of the batch of held-out pairs.

        Noise, timesteps and weights are always the same: all losses are those of the last step,
        where w is 1 and the augmentation is on.
        """
        self.objective.nets.eval()
        size, seed, last = (
            self.config.train_batch_size, self.config.seed, self.config.max_train_steps,
        )  # fmt: skip
        sums = {}
        for number, batch in enumerate(validation.validation_batches(size, seed, part)):
            with self.accelerator.autocast():
                losses = self.objective.losses(batch.to(self.accelerator.device), last)
            found = {name: float(values.sum()) for name, values in losses.items()}
            sums[part[0] + number * part[1]] = found
        return sums

    def log_validation(self, step: int, pairs: int, sums: Mapping[int, dict[str, float]]) -> None:
        """Log the mean losses of all batches, so that they can be compared between steps."""
        totals: dict[str, float] = {}
        for number in sorted(sums):  # added up in one order, whoever has computed them
            for name, value in sums[number].items():
                totals[name] = totals.get(name, 0.0) + value
        means = {name: total / pairs for name, total in totals.items()}
        headline = {"validation_mask": means.pop("mask")}  # of the branch that is sampled from
        self._log(step, headline | {f"validation_{name}": mean for name, mean in means.items()})

    def has_validated(self, step: int) -> bool:
        """Whether the metrics have a validation of that step."""
        lines = metrics.read(self.folder.metrics)
        return any(line["step"] == step and "validation_mask" in line for line in lines)

    @torch.no_grad()
    def sample(self, part: Part) -> dict[int, Tensor]:
        """Images (1, 3, H, W) in [0, 1] by their place in the preview.

        Masks, noise and captions are the same at every step, so that grids can be compared.
        """
        config = self.config
        places = range(part[0], len(self._shown), part[1])
        if not places:
            return {}
        self.objective.nets.eval()
        conditions = self._conditions(places)
        with self.accelerator.autocast():
            latents = sample(self.objective, conditions, config.sample_steps, config.sample_cfg)
        images = decode(self.base.autoencoder, latents, self.accelerator.device)
        return dict(zip(places, images.split(1), strict=True))

    def show(self, step: int, sampled: Mapping[int, Tensor]) -> None:
        """Write loss curves, and the grid mask | real (unless anonymous) | sampled | outline."""
        # First: a resumed run makes a preview that is missing, and both are there or made again.
        self._plot()
        mask, image = self.data.masks_and_images(self._shown)
        images = torch.cat([sampled[place] for place in range(len(self._shown))])
        real = [] if self.config.anonymous else [image]
        image_grid = grid([mask, *real, images, outline(images, mask)])
        path = self.folder.preview(step)
        save_image(image_grid, path)
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"preview": np.asarray(image_grid)[None]}, step=step, **layout)
        log.info("Preview: %s", path)

    def _conditions(self, places: Sequence[int]) -> Conditions:
        """Of those places of the preview."""
        device, count = self.accelerator.device, len(self._shown)
        indices = [self._shown[place] for place in places]
        mask, _ = self.data.masks_and_images(indices)
        captions = [self.data.pairs[index].caption for index in indices]
        shape = (count, 4, mask.shape[-2] // 8, mask.shape[-1] // 8)
        noise = torch.randn(shape, generator=generator(self.config.seed, "preview", 0))
        return Conditions(
            mask=mask.to(device),
            text=self.data.texts.load(captions).to(device),
            empty_text=self.data.texts.load([""] * len(places)).to(device),
            noise=noise[[*places]].to(device),
        )
