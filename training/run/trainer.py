"""The training loop: one step, many steps, stopping and resuming."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

from ...models.metadata import SiameseMetadata
from ...models.recipe import Recipe
from ...models.weights import write_weights
from ..config import TrainConfig
from ..data.batch_order import BatchOrder
from ..data.batches import TrainingData
from ..errors import NotFiniteError
from ..hosts.interface import Host
from ..method.base_model import BaseModel
from ..method.bundle import bundle_tensors
from ..method.noise_schedule import NoiseSchedule
from ..method.objective import Backpropagate, Batch, Objective
from .checkpoint import Checkpoints
from .folder import RunFolder
from .gradient_update import make_gradient_update
from .reporting import Reporter
from .resume import Record
from .speed import make_networks

log = logging.getLogger(__name__)


class Trainer:
    """Trains ControlNet and decoder on the pairs; all that is random depends on (seed, step)."""

    def __init__(
        self,
        config: TrainConfig,
        host: Host,
        base: BaseModel,
        data: TrainingData,
        accelerator: Accelerator,
        record: Record,
        validation: TrainingData | None = None,
    ) -> None:
        self.config, self.host, self.accelerator = config, host, accelerator
        self.base, self.data = base, data
        self.folder = RunFolder(config.output_dir, config.output_name)
        recipe = config.resolved_recipe()
        self.nets = make_networks(
            config, base, recipe.hint_channels(data.mask_channels), accelerator.device
        )
        schedule = NoiseSchedule(base.prediction, accelerator.device)
        self.objective = Objective(self.nets, schedule, recipe, config.max_train_steps)
        self.gradients = make_gradient_update(config, host, self.nets, accelerator)
        parameters = self.gradients.parameters
        self.ema = EMAModel(parameters, decay=config.ema_decay) if config.ema_decay else None
        self.checkpoints = Checkpoints(
            self.folder, record, base.shape, self.nets, self.gradients, self.ema
        )
        self.process_batch = config.train_batch_size * config.gradient_accumulation_steps
        self.global_batch = self.gradients.global_batch
        self.order = BatchOrder(data.sizes, self.global_batch, config.seed)
        self.reporter = Reporter(config, self.folder, base, data, self.objective, accelerator)
        self.validation = validation
        self.step = 0
        self._stop_requested = False
        self._reader = ThreadPoolExecutor(1)
        self._reading: dict[int, Future[Batch]] = {}  # by step

    # Steps

    def train(self) -> None:
        """Run from the current step to the last, saving and showing on the way."""
        with _signals(self._request_stop):
            self._train_steps()
            self._finish()

    def _train_steps(self) -> None:
        total = self.config.max_train_steps
        hidden = not self.accelerator.is_main_process
        stop = False
        with tqdm(total=total, initial=self.step, desc="training", disable=hidden) as bar:
            while self.step < total and not stop:
                started, rate = time.perf_counter(), self.gradients.learning_rate
                terms, stop = self.train_step()
                self.step += 1
                bar.update()
                seconds = time.perf_counter() - started
                self.reporter.log_step(self.step, terms, rate, seconds, bar)
                if not stop:
                    self._periodic(bar)

    def train_step(self) -> tuple[dict[str, float], bool]:
        """One optimizer step: mean loss terms by name, and whether any process wants to stop."""
        self.nets.train()
        whole = self.host.apply_noise_options(self._next_batch(), self.config.seed, self.step)
        sums: dict[str, Tensor] = {}
        size = self.config.train_batch_size
        first = self.accelerator.process_index * self.process_batch
        for start in range(first, first + self.process_batch, size):
            batch = whole.rows(start, start + size).to(self.accelerator.device)
            backpropagate = self._backpropagate(batch.timesteps)
            with self.accelerator.autocast():
                losses = self.objective.losses(batch, self.step, backpropagate)
            for name, values in losses.items():
                sums[name] = sums.get(name, 0.0) + values.float().sum()
        terms, stop = self._gather(sums)
        self._check_finite(terms, self.gradients.reduce_and_clip_gradients())
        self.gradients.apply()
        if self.ema:
            self.ema.step(self.gradients.parameters)
        return terms, stop

    def _backpropagate(self, timesteps: Tensor) -> Backpropagate:
        """With the host's loss weight; logged losses stay without it, comparable between runs."""
        weight = self.host.loss_weight(timesteps)
        if weight is None:
            return self.gradients.backpropagate
        return lambda loss: self.gradients.backpropagate(loss * weight)

    def _next_batch(self) -> Batch:
        """The global batch of this step; that of the next is read meanwhile, on a thread."""
        reading = self._reading.pop(self.step, None) or self._read(self.step)
        batch = reading.result()  # raises what reading has raised
        if self.step + 1 < self.config.max_train_steps:
            self._reading[self.step + 1] = self._read(self.step + 1)
        return batch

    def _read(self, step: int) -> Future[Batch]:
        indices, config = self.order.batch(step), self.config
        return self._reader.submit(
            self.data.batch, indices, config.seed, step, config.caption_dropout_rate
        )

    def _gather(self, sums: dict[str, Tensor]) -> tuple[dict[str, float], bool]:
        """Means over the global batch; a stop requested on one process stops them all."""
        stop = torch.tensor(float(self._stop_requested), device=self.accelerator.device)
        values = self.accelerator.reduce(torch.stack([*sums.values(), stop]), "sum").tolist()
        return dict(zip(sums, (v / self.global_batch for v in values[:-1]), strict=True)), bool(
            values[-1]
        )

    def _check_finite(self, terms: dict[str, float], gradient_norm: float | None) -> None:
        """Raise NotFiniteError before the weights are changed by what is not finite."""
        values = dict(terms) if gradient_norm is None else {**terms, "gradient norm": gradient_norm}
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            indices = self.order.batch(self.step)
            files = ", ".join(str(self.data.pairs[index].image) for index in indices)
            state = self.folder.latest_state()
            advice = f"Go on from it with --resume {state} and" if state else "Begin anew with"
            raise NotFiniteError(
                f"step {self.step + 1}: not finite: {', '.join(bad)}. The batch: {files}. The "
                f"weights were not updated; last good state: {state or 'none'}. "
                f"{advice} a lower --learning_rate, or begin anew without --mixed_precision."
            )

    # Stopping, saving, resuming

    def resume(self, state: Path) -> None:
        """Continue from a state folder."""
        self.step = self.checkpoints.load(state)

    def save_weights(self, path: Path) -> None:
        """Write the bundle that ComfyUI loads."""
        theirs = self.host.metadata(self.config)
        metadata = SiameseMetadata(
            recipe=self.objective.recipe,
            resolution=self.config.size,
            step=self.step,
            base_hash=self.base.base_hash,
            context_dim=self.base.shape.context_dim,
            mask_classes=self.data.mask_classes,
            prediction_type=self.base.prediction,
            title=theirs.get("modelspec.title", self.config.output_name),
            host=self.host.name,
        )
        ours = {
            **metadata.to_strings(),
            "siamese.config": config_to_publish(self.config, self.objective.recipe),
        }
        write_weights(path, bundle_tensors(self.nets, self.base.shape), {**theirs, **ours})
        log.info("Weights: %s", path)

    @contextmanager
    def _weights_to_show(self) -> Iterator[None]:
        """The averaged weights, where there are any."""
        if self.ema:
            self.ema.store(self.gradients.parameters)
            self.ema.copy_to(self.gradients.parameters)
        try:
            yield
        finally:
            if self.ema:
                self.ema.restore(self.gradients.parameters)

    def _periodic(self, bar: tqdm) -> None:
        config, step = self.config, self.step
        if step == config.max_train_steps:
            return
        if _due(step, config.save_every_n_steps):
            self._on_main(lambda: self.save_weights(self.folder.weights(step)))
            self.checkpoints.save(step, config.keep_last_n)
        if _due(step, config.sample_every_n_steps):
            self._on_main(lambda: self.reporter.preview(step, bar))
        if self.validation and _due(step, config.validate_every_n_steps):
            self._validate(self.validation)

    def _finish(self) -> None:
        # First, so that whatever fails below can be done again from there.
        self.checkpoints.save(self.step, self.config.keep_last_n)
        if self.step < self.config.max_train_steps:
            log.warning("Stopped at step %d. The same command again resumes.", self.step)
            return
        self._on_main(lambda: self.reporter.preview(self.step, None))
        if self.validation:
            self._validate(self.validation)
        # Late, because this file says that the run is finished.
        self._on_main(lambda: self.save_weights(self.folder.weights()))
        if self.config.save_every_n_steps == 0:
            self._on_main(self.folder.remove_states)

    def _validate(self, validation: TrainingData) -> None:
        self._on_main(lambda: self.reporter.validate(self.step, validation))

    def _on_main(self, action: Callable[[], None]) -> None:
        """Run on the main process with the weights to show; the others wait."""
        if self.accelerator.is_main_process:
            with self._weights_to_show():
                action()
        self.accelerator.wait_for_everyone()

    def _request_stop(self, number: int, _frame: FrameType | None) -> None:
        if self._stop_requested:
            raise KeyboardInterrupt
        self._stop_requested = True
        name = signal.Signals(number).name
        log.warning("%s: stopping once everything is saved; once more stops at once.", name)


def config_to_publish(config: TrainConfig, recipe: Recipe) -> str:
    """The configuration as JSON; not the folders and secrets of whoever trained it."""
    values = asdict(config)
    options = values.pop("host_options")
    options.pop("vae", None)  # a file of theirs
    plain = {k: v for k, v in values.items() if isinstance(v, (str, int, float, tuple))}
    return json.dumps({**plain, **options, **asdict(recipe)})


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a clean stop while training."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
