"""The training loop: one step, many steps, stopping and resuming."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from ..models.metadata import SiameseMetadata
from ..models.weights import write_weights
from .checkpoints import STATE_WEIGHTS, RunFolder, bundle_tensors, load_bundle, read_state
from .data import TrainingData
from .errors import NotFiniteError
from .host import BaseModel
from .networks import SiameseNetworks, new_controlnet
from .objective import Batch, Losses, Objective
from .options import TrainConfig
from .order import BatchOrder, generator
from .preview import Conditions, grid, outline, plot_losses, sample, save_picture
from .schedule import NoiseSchedule

log = logging.getLogger(__name__)


class Trainer:
    """Trains ControlNet and decoder on the pairs; everything random depends on (seed, step)."""

    def __init__(
        self, config: TrainConfig, base: BaseModel, data: TrainingData, accelerator: Accelerator
    ) -> None:
        self.config, self.base, self.data, self.accelerator = config, base, data, accelerator
        self.folder = RunFolder(config.output_dir, config.output_name)
        recipe = config.resolved_recipe()
        controlnet = new_controlnet(base.unet, recipe.hint_channels())
        self.nets = SiameseNetworks(base.unet, controlnet).to(accelerator.device)
        schedule = NoiseSchedule(base.prediction, accelerator.device)
        self.objective = Objective(self.nets, schedule, recipe, config.max_train_steps)
        self.parameters = [p for p in self.nets.parameters() if p.requires_grad]
        self.optimizer = accelerator.prepare(
            torch.optim.AdamW(self.parameters, lr=config.learning_rate)
        )
        self.global_batch = config.train_batch_size * accelerator.num_processes
        self.order = BatchOrder([data.size] * len(data), self.global_batch, config.seed)
        self.step = 0
        self._stop: str | None = None

    # Steps

    def train(self) -> None:
        """Run from the current step to the last, saving and showing on the way."""
        config, main = self.config, self.accelerator.is_main_process
        bar = tqdm(
            total=config.max_train_steps, initial=self.step, desc="training", disable=not main
        )
        with _signals(self._request_stop), bar:
            while self.step < config.max_train_steps:
                started = time.perf_counter()
                losses = self.train_step()
                self.step += 1
                terms = {f"loss_{name}": value for name, value in losses.items()}
                total = sum(losses.values())
                bar.update()
                bar.set_postfix(
                    {"loss": f"{total:.4f}"} | {n: f"{v:.4f}" for n, v in losses.items()}
                )
                self._log({"loss": total, **terms, "seconds": time.perf_counter() - started})
                if self._stop:
                    break
                self._periodic(bar)
        self._finish()

    def train_step(self) -> dict[str, float]:
        """One optimizer step on the global batch of this step; mean loss terms by name."""
        self.nets.train()
        indices = self.order.batch(self.step)
        whole = self.data.batch(
            indices, self.config.seed, self.step, self.config.caption_dropout_rate
        )
        size = self.config.train_batch_size
        start = self.accelerator.process_index * size
        batch = _slice(whole, start, start + size, self.accelerator.device)
        with self.accelerator.autocast():
            losses = self.objective.losses(batch, self.step, self._backward)
        terms = self._mean_terms(losses)
        self._check_finite(terms, indices)
        self._sum_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return terms

    def _backward(self, terms: Tensor) -> None:
        """Every sample counts once, whichever process it is on."""
        self.accelerator.backward(terms.sum() / self.global_batch)

    def _sum_gradients(self) -> None:
        """The networks run outside a DDP wrapper, in several backward passes a step."""
        if self.accelerator.num_processes > 1:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self.accelerator.reduce(parameter.grad, "sum")

    def _mean_terms(self, losses: Losses) -> dict[str, float]:
        sums = torch.stack([value.float().sum() for value in losses.values()])
        sums = self.accelerator.reduce(sums, "sum") / self.global_batch
        return dict(zip(losses, sums.tolist(), strict=True))

    def _check_finite(self, terms: dict[str, float], indices: list[int]) -> None:
        bad = [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]
        if bad:
            files = ", ".join(str(self.data.pairs[index].image) for index in indices)
            state = self.folder.latest_state()
            raise NotFiniteError(
                f"step {self.step}: the loss is not finite ({', '.join(bad)}). The batch: {files}. "
                f"The weights were not updated; last good state: {state or 'none'}. Lower "
                "--learning_rate, or train without mixed precision."
            )

    # Stopping, saving, resuming

    def resume(self, state: Path) -> None:
        """Continue from a state folder: weights, optimizer, learning rate and step."""
        step, saved = read_state(state)
        load_bundle(state / STATE_WEIGHTS, self.nets, self.base.shape)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = step
        if self.accelerator.is_main_process:
            self.folder.drop_metrics_after(step)
        log.info("Resuming from %s", state)

    def save_state(self) -> None:
        """Write everything that `resume` needs."""
        if self.accelerator.is_main_process:
            tensors = bundle_tensors(self.nets, self.base.shape)
            self.folder.save_state(self.step, tensors, {"optimizer": self.optimizer.state_dict()})
            self.folder.prune(self.config.keep_last_n)
        self.accelerator.wait_for_everyone()

    def _request_stop(self, signal_number: int, _frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = signal.Signals(signal_number).name
        log.warning("%s: saving after this step; once more stops at once.", self._stop)

    def _periodic(self, bar: tqdm) -> None:
        if self.step == self.config.max_train_steps:
            return
        if _due(self.step, self.config.save_every_n_steps):
            self.save_weights(self.step)
            self.save_state()
        if _due(self.step, self.config.sample_every_n_steps):
            self.preview(bar)

    def _finish(self) -> None:
        if self.step < self.config.max_train_steps:
            self.save_state()
            log.warning("Stopped at step %d. The same command again resumes.", self.step)
            return
        self.save_weights(None)
        self.preview(None)

    def save_weights(self, step: int | None) -> None:
        """Write the bundle; `step` None names the finished run's file."""
        if not self.accelerator.is_main_process:
            return
        metadata = SiameseMetadata(
            recipe=self.objective.recipe,
            resolution=self.config.size,
            step=self.step,
            base_hash=self.base.base_hash,
            mask_classes={"255": "lesion"},
            prediction_type=self.base.prediction,
            title=self.config.output_name,
        )
        path = self.folder.weights(step)
        write_weights(path, bundle_tensors(self.nets, self.base.shape), metadata.to_strings())
        log.info("Weights: %s", path)

    # What people see

    def _log(self, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            line = {"step": self.step, **{name: float(value) for name, value in values.items()}}
            with self.folder.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    @torch.no_grad()
    def preview(self, bar: tqdm | None) -> None:
        """Write the grid mask | real | sampled | outline, and the loss curves."""
        if not self.accelerator.is_main_process:
            return
        config, device = self.config, self.accelerator.device
        self.nets.eval()
        count = min(config.sample_count, len(self.data))
        shown = [i * len(self.data) // count for i in range(count)]
        mask, image = self.data.pictures(shown)
        width, height = self.data.size
        conditions = Conditions(
            mask=mask.to(device),
            text=self.data.text(self.data.pairs[i].caption for i in shown).to(device),
            empty_text=self.data.text([""] * count).to(device),
            noise=torch.randn(
                (count, 4, height // 8, width // 8), generator=generator(config.seed, "preview", 0)
            ).to(device),
        )
        with self.accelerator.autocast():
            latents = sample(self.objective, conditions, config.sample_steps, config.sample_cfg)
        # Half precision overflows in Stable Diffusion's decoder: black previews.
        sampled = self.base.autoencoder.decode(latents.float()).cpu()
        path = self.folder.preview(self.step)
        save_picture(grid([mask, image, sampled, outline(sampled, mask)]), path)
        plot_losses(self.folder.metrics, self.folder.losses)
        (bar.write if bar else log.info)(f"Preview: {path}")


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _slice(batch: Batch, start: int, stop: int, device: torch.device) -> Batch:
    parts = {f.name: getattr(batch, f.name)[start:stop].to(device) for f in fields(batch)}
    return Batch(**parts)


@contextmanager
def _signals(handler: object) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a clean stop while training."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, handler) for number in numbers}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
