"""The training loop: one step, many steps, and what is due after each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..config import TrainConfig
from ..data.batch_order import BatchOrder
from ..data.batches import TrainingData
from ..hosts.interface import Host
from ..method.base_model import BaseModel
from ..method.objective import Backpropagate
from .background import Background
from .batch_reader import BatchReader
from .checkpoint import Checkpoints
from .dealing import Dealing
from .ema import ema_weights
from .failures import check_finite, device_failures
from .folder import RunFolder
from .gradient_update import make_gradient_update
from .input_noise import add_input_noise
from .metadata import bundle_metadata
from .objective import make_objective
from .prompt_previews import PromptPreviews
from .reporting import Part, Reporter
from .resume import Record
from .speed import make_networks
from .stop import StopRequest

log = logging.getLogger(__name__)

T = TypeVar("T")  # what a part of the processes' work gives for each item


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
        self.background = Background()
        self.checkpoints = Checkpoints(
            self.folder, record, base.shape, self.nets, self.gradients, self.ema, metadata,
            self.background,
        )  # fmt: skip
        self.process_batch = config.train_batch_size * config.gradient_accumulation_steps
        self.global_batch = self.gradients.global_batch
        self.order = BatchOrder(data.sizes, self.global_batch, config.seed)
        self.reporter = Reporter(
            config, self.folder, base, data, self.objective, accelerator, self.background
        )
        self.prompts = PromptPreviews(config, base, self.objective, accelerator)
        self.step = 0
        self._stop = StopRequest()
        self._dealing = Dealing(config, data, self.order, accelerator)
        self.batches = BatchReader(
            config, data, self.order, self._dealing.share, accelerator.device
        )

    # Many steps

    def resume(self, state: Path) -> None:
        """Continue from a state folder."""
        self.step = self.checkpoints.load(state)

    def train(self) -> None:
        """Run from the current step to the last, saving and showing on the way."""
        total = self.config.max_train_steps
        hidden = not self.accelerator.is_main_process
        with (
            self.batches,
            self._stop,
            self.background,
            logging_redirect_tqdm(),
            tqdm(total=total, initial=self.step, desc="training", disable=hidden) as bar,
        ):
            if self.step == 0 and self.config.sample_at_first:
                self._preview()
            if self.folder.state(self.step).is_dir():  # of this run, not of another's folder
                self._save_and_show(self._already_done())
            stop = False
            while self.step < total and not stop:
                stop = self.train_and_log_step(bar)
                if not stop or self.step == total:
                    self._save_and_show()
            if self.step < total:
                self.background.wait()
                self.checkpoints.save(self.step)
                self.background.wait()
                self._on_main(lambda: self.folder.prune(self.config.keep_last_n))
                log.warning("Stopped at step %d. The same command again resumes.", self.step)

    def train_and_log_step(self, bar: tqdm) -> bool:
        """One step and its line of metrics; whether any process wants to stop."""
        started, rate = time.perf_counter(), self.gradients.learning_rate
        with device_failures(self.config, self.step + 1, self._latest_state):
            losses, stop = self.train_step()
        self.step += 1
        bar.update()
        self.reporter.log_step(self.step, losses, rate, time.perf_counter() - started, bar)
        self.background.check()
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
            self.background.wait()  # so that no more files are there at once than were promised
            self.checkpoints.save(step)
            if self.accelerator.is_main_process:
                publish = not last and "weights" not in done
                self.background.start(partial(self._publish_and_prune, step, publish))
        if due("validation", config.validate_every_n_steps):
            self._validate()
        if due("preview", config.sample_every_n_steps):
            self._preview()
        if last:
            self.background.wait()
            # Last, because this file says that the run is finished.
            self._on_main(lambda: self._publish(step, folder.weights()))
            if config.save_every_n_steps == 0:
                self._on_main(folder.remove_states)

    def _validate(self) -> None:
        if (held_out := self.validation) is None:
            return
        self._try(
            "validation",
            lambda part: self.reporter.validation_sums(held_out, part),
            lambda sums: self.reporter.log_validation(self.step, len(held_out), sums),
        )

    def _preview(self) -> None:
        self.background.wait()  # it may be drawing losses, which a preview does too
        self._try(
            "preview of prompts",
            self.prompts.sample,
            lambda images: self.prompts.show(self.step, self.folder, images),
        )
        self._try(
            "preview", self.reporter.sample, lambda images: self.reporter.show(self.step, images)
        )

    def _publish_and_prune(self, step: int, publish: bool) -> None:
        """From the files of the state: the weights may change meanwhile."""
        if publish:
            self._publish(step, self.folder.weights(step))
        self.folder.prune(self.config.keep_last_n)

    def _publish(self, step: int, path: Path) -> None:
        self.checkpoints.publish(step, path, self.config.save_precision)

    def _on_main(self, action: Callable[[], None]) -> None:
        """Run on the main process; the others wait."""
        if self.accelerator.is_main_process:
            action()
        self.accelerator.wait_for_everyone()

    def _try(
        self,
        what: str,
        compute: Callable[[Part], Mapping[int, T]],
        show: Callable[[dict[int, T]], None],
    ) -> None:
        """Each process computes its part with the EMA's weights, and the main one shows all of it.

        Where that fails on any of them, warn and train on.
        """
        parts = gather_object([self._attempt(compute)])
        if self.accelerator.is_main_process:
            failures = [part for part in parts if isinstance(part, str)]
            if not failures:
                try:
                    show({key: value for part in parts for key, value in part.items()})
                except Exception as error:
                    failures.append(_in_words(error))
            if failures:
                log.warning(
                    "Step %d: no %s, since it failed (%s). Training goes on.",
                    self.step, what, failures[0],
                )  # fmt: skip
        self.accelerator.wait_for_everyone()

    def _attempt(self, compute: Callable[[Part], Mapping[int, T]]) -> Mapping[int, T] | str:
        """This process's part, or what went wrong."""
        try:
            with ema_weights(self.ema, self.gradients.parameters):
                return compute((self.accelerator.process_index, self.accelerator.num_processes))
        except Exception as error:
            if self.ema and self.ema.temp_stored_params is not None:
                raise  # the weights to train could not be put back
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return _in_words(error)
        finally:
            self.nets.train()

    # One step

    def train_step(self) -> tuple[dict[str, float], bool]:
        """One optimizer step: mean losses by name, and whether any process wants to stop."""
        share, seed = self._dealing.share(self.step), self.config.seed
        own = self.batches.batch(self.step)
        own = self.host.apply_noise_options(own, share, seed, self.step)
        own = add_input_noise(self.config, own, share, self.step)
        sums: dict[str, Tensor] = {}
        size = self.config.train_batch_size
        for start in range(0, self.process_batch, size):
            rows = own.rows(start, start + size)
            backpropagate = self._backpropagate(rows.timesteps)
            with self.accelerator.autocast():
                batch = rows.to(self.accelerator.device)
                losses = self.objective.losses(batch, self.step, backpropagate)
            for name, values in losses.items():
                sums[name] = sums.get(name, 0.0) + values.float().sum()
        means, stop, norm = self._read(sums, self.gradients.reduce_and_clip_gradients())
        finite = means if norm is None else {**means, "gradient norm": norm}
        check_finite(finite, self.step + 1, self._batch_images, self._latest_state)
        self.gradients.apply()
        if self.ema:
            self.ema.step(self.gradients.parameters)
        return means, stop

    def _backpropagate(self, timesteps: Tensor) -> Backpropagate:
        """With the host's loss weight; logged losses stay without it, comparable between runs.

        timesteps: (B,) on the CPU, where the host looks at them.
        """
        weight = self.host.loss_weight(timesteps)
        if weight is None:
            return self.gradients.backpropagate
        weight = weight.to(self.accelerator.device, non_blocking=True)
        return lambda loss: self.gradients.backpropagate(loss * weight)

    def _read(
        self, sums: dict[str, Tensor], norm: Tensor | None
    ) -> tuple[dict[str, float], bool, float | None]:
        """Means over the global batch, whether any process wants to stop, and the gradients' norm.

        Read all at once: only here a step waits for its device.
        """
        stop = torch.full((), float(self._stop.requested), device=self.accelerator.device)
        values = self.accelerator.reduce(torch.stack([*sums.values(), stop]), "sum")
        if norm is not None:
            values = torch.cat([values, norm.view(1)])
        numbers = values.tolist()
        means = {name: numbers[i] / self.global_batch for i, name in enumerate(sums)}
        return means, bool(numbers[len(sums)]), None if norm is None else numbers[-1]

    def _latest_state(self) -> Path | None:
        """For messages that name it: once it is written."""
        self.background.wait()
        return self.folder.latest_state()

    def _batch_images(self) -> list[Path]:
        return [self.data.pairs[index].image for index in self.order.batch(self.step)]


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
