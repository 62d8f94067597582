"""The training loop: one step, many steps, and what is due after each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..config import TrainConfig
from ..data.batch_order import BatchOrder, Share
from ..data.batches import TrainingData
from ..hosts.interface import Host
from ..method.base_model import BaseModel
from ..method.objective import Backpropagate
from .batch_reader import BatchReader
from .checkpoint import Checkpoints
from .ema import ema_weights
from .failures import check_finite, device_failures
from .folder import RunFolder
from .gradient_update import make_gradient_update
from .input_noise import add_input_noise
from .metadata import bundle_metadata
from .objective import make_objective
from .prompt_previews import PromptPreviews
from .reporting import Reporter
from .resume import Record
from .speed import make_networks
from .stop import StopRequest

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
        self.data, self.validation = data, validation
        self.folder = RunFolder(config.output_dir, config.output_name)
        recipe = config.resolved_recipe()
        self.nets = make_networks(
            config, base, recipe.hint_channels(data.mask_channels), accelerator.device
        )
        self.objective = make_objective(
            config, self.nets, base.prediction, recipe, accelerator.device
        )
        self.gradients = make_gradient_update(config, host, self.nets, accelerator)
        parameters = self.gradients.parameters
        self.ema = (
            EMAModel(parameters, decay=config.ema_decay, foreach=True) if config.ema_decay else None
        )
        metadata = partial(bundle_metadata, config, host, base, data.mask_classes)
        self.checkpoints = Checkpoints(
            self.folder, record, base.shape, self.nets, self.gradients, self.ema, metadata
        )
        self.process_batch = config.train_batch_size * config.gradient_accumulation_steps
        self.global_batch = self.gradients.global_batch
        self.order = BatchOrder(data.sizes, self.global_batch, config.seed)
        self.reporter = Reporter(config, self.folder, base, data, self.objective, accelerator)
        self.prompts = PromptPreviews(config, base, self.objective, accelerator)
        self.step = 0
        self._stop = StopRequest()
        first = accelerator.process_index * self.process_batch
        self._share = Share(slice(first, first + self.process_batch), self.global_batch)
        self._batches = BatchReader(config, data, self.order, self._share, accelerator.device)

    # Many steps

    def resume(self, state: Path) -> None:
        """Continue from a state folder."""
        self.step = self.checkpoints.load(state)

    def train(self) -> None:
        """Run from the current step to the last, saving and showing on the way."""
        total = self.config.max_train_steps
        hidden = not self.accelerator.is_main_process
        with (
            self._batches,
            self._stop,
            logging_redirect_tqdm(),
            tqdm(total=total, initial=self.step, desc="training", disable=hidden) as bar,
        ):
            if self.step == 0 and self.config.sample_at_first:
                self._preview()
            if self.folder.state(self.step).is_dir():  # of this run, not of another's folder
                self._save_and_show(self._already_done())
            stop = False
            while self.step < total and not stop:
                stop = self._train_and_log_step(bar)
                if not stop or self.step == total:
                    self._save_and_show()
            if self.step < total:
                self.checkpoints.save(self.step)
                self._on_main(lambda: self.folder.prune(self.config.keep_last_n))
                log.warning("Stopped at step %d. The same command again resumes.", self.step)

    def _train_and_log_step(self, bar: tqdm) -> bool:
        """Whether any process wants to stop."""
        started, rate = time.perf_counter(), self.gradients.learning_rate
        with device_failures(self.config, self.step + 1, self.folder.latest_state):
            losses, stop = self.train_step()
        self.step += 1
        bar.update()
        self.reporter.log_step(self.step, losses, rate, time.perf_counter() - started, bar)
        return stop

    def _already_done(self) -> set[str]:
        """What is due after this step, and was written before the run was stopped."""
        written = {
            "weights": self.folder.weights(self.step).is_file(),
            "preview": self.folder.preview(self.step).is_file(),
            "validation": self.reporter.has_validated(self.step),
        }
        self.accelerator.wait_for_everyone()  # all look before the first writes
        return {name for name, there in written.items() if there}

    def _save_and_show(self, done: Collection[str] = ()) -> None:
        """All that is due after this step and not `done`.

        The state comes first, so that what a stop cuts off can be made from it: a resumed run
        begins with that.
        """
        config, step, folder = self.config, self.step, self.folder
        last = step == config.max_train_steps

        def due(what: str, interval: int) -> bool:
            return what not in done and (last or (interval > 0 and step % interval == 0))

        if due("state", config.save_every_n_steps):
            self.checkpoints.save(step)
            if not last and "weights" not in done:
                self._on_main(lambda: self._publish(folder.weights(step)))
            self._on_main(lambda: folder.prune(config.keep_last_n))
        if (validation := self.validation) and due("validation", config.validate_every_n_steps):
            self._try("validation", lambda: self.reporter.validate(step, validation))
        if due("preview", config.sample_every_n_steps):
            self._preview()
        if last:
            # Last, because this file says that the run is finished.
            self._on_main(lambda: self._publish(folder.weights()))
            if config.save_every_n_steps == 0:
                self._on_main(folder.remove_states)

    def _preview(self) -> None:
        self._try("preview of prompts", lambda: self.prompts.show(self.step, self.folder))
        self._try("preview", lambda: self.reporter.preview(self.step))

    def _publish(self, path: Path) -> None:
        self.checkpoints.publish(self.step, path, self.config.save_precision)

    def _on_main(self, action: Callable[[], None]) -> None:
        """Run on the main process; the others wait."""
        if self.accelerator.is_main_process:
            action()
        self.accelerator.wait_for_everyone()

    def _try(self, what: str, action: Callable[[], None]) -> None:
        """Run on the main process with the EMA's weights; where it fails, warn and train on."""

        def attempt() -> None:
            try:
                with ema_weights(self.ema, self.gradients.parameters):
                    action()
            except Exception as error:
                if self.ema and self.ema.temp_stored_params is not None:
                    raise  # the weights to train could not be put back
                log.warning(
                    "Step %d: no %s, since it failed (%s: %s). Training goes on.",
                    self.step, what, type(error).__name__, error,
                )  # fmt: skip
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

        self._on_main(attempt)

    # One step

    def train_step(self) -> tuple[dict[str, float], bool]:
        """One optimizer step: mean losses by name, and whether any process wants to stop."""
        self.nets.train()
        own = self._batches.batch(self.step)
        own = self.host.apply_noise_options(own, self._share, self.config.seed, self.step)
        own = add_input_noise(self.config, own, self._share, self.step)
        sums: dict[str, Tensor] = {}
        size = self.config.train_batch_size
        for start in range(0, self.process_batch, size):
            batch = own.rows(start, start + size).to(self.accelerator.device)
            backpropagate = self._backpropagate(batch.timesteps)
            with self.accelerator.autocast():
                losses = self.objective.losses(batch, self.step, backpropagate)
            for name, values in losses.items():
                sums[name] = sums.get(name, 0.0) + values.float().sum()
        means, stop = self._gather(sums)
        norm = self.gradients.reduce_and_clip_gradients()
        finite = means if norm is None else {**means, "gradient norm": norm}
        check_finite(finite, self.step + 1, self._batch_images, self.folder.latest_state)
        self.gradients.apply()
        if self.ema:
            self.ema.step(self.gradients.parameters)
        return means, stop

    def _backpropagate(self, timesteps: Tensor) -> Backpropagate:
        """With the host's loss weight; logged losses stay without it, comparable between runs."""
        weight = self.host.loss_weight(timesteps)
        if weight is None:
            return self.gradients.backpropagate
        return lambda loss: self.gradients.backpropagate(loss * weight)

    def _gather(self, sums: dict[str, Tensor]) -> tuple[dict[str, float], bool]:
        """Means over the global batch; a stop requested on one process stops them all."""
        stop = torch.tensor(float(self._stop.requested), device=self.accelerator.device)
        values = self.accelerator.reduce(torch.stack([*sums.values(), stop]), "sum").tolist()
        means = (value / self.global_batch for value in values[:-1])
        return dict(zip(sums, means, strict=True)), bool(values[-1])

    def _batch_images(self) -> list[Path]:
        return [self.data.pairs[index].image for index in self.order.batch(self.step)]
