"""Everything that training resumes from, saved and restored as a whole."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from diffusers.training_utils import EMAModel

from ...models.weights import WeightsError
from ..method.bundle import bundle_tensors, load_bundle
from ..method.ldm_keys import UNetShape
from ..method.networks import SiameseNetworks
from .background import Background
from .ema import ema_values, set_ema
from .folder import RunFolder
from .gradient_update import GradientUpdate
from .publish import publish
from .resume import Record
from .states import EMA, WEIGHTS, DamagedStateError, State, cannot_resume, read_state

log = logging.getLogger(__name__)

Metadata = Callable[[int], dict[str, str]]  # of the weights of a step


class Checkpoints:
    """Saves and restores weights, EMA, optimizer, learning rate and step; on all processes.

    Order, noise and caption dropout are functions of (seed, step): no random state is kept.
    """

    def __init__(
        self,
        folder: RunFolder,
        record: Record,
        shape: UNetShape,
        nets: SiameseNetworks,
        gradients: GradientUpdate,
        ema: EMAModel | None,
        metadata: Metadata,
        background: Background,
    ) -> None:
        self.folder, self.record, self.shape = folder, record, shape
        self.nets, self.gradients, self.ema = nets, gradients, ema
        self.metadata, self.background = metadata, background
        self.accelerator = gradients.accelerator
        self._newest: int | None = None  # step of the state that was saved or loaded last

    def save(self, step: int) -> None:
        """Write the state of a step unless it is there; where that fails, nothing of it is left.

        In the background, where memory has room for a copy: training goes on meanwhile.
        """
        if step == self._newest:
            return
        folder, main = self.folder.unfinished_state(step), self.accelerator.is_main_process
        with self._removed_on_failure(folder):
            if main:
                self.folder.clear(folder)
            self.accelerator.wait_for_everyone()
            state = self._state(step, self.gradients.state(folder))
            self.accelerator.wait_for_everyone()
            copy = state.copy() if main and state.can_be_copied() else None
        if copy is not None:
            self.background.start(partial(self._write, copy))
        elif main:
            self._write(state)
        self.accelerator.wait_for_everyone()
        self._newest = step

    def _state(self, step: int, optimizer: dict[str, Any]) -> State:
        weights = bundle_tensors(self.nets, self.shape)
        averages = self.ema and ema_values(self.ema, self.gradients.parameters, weights)
        return State(step, weights, averages, optimizer, self.metadata(step))

    def _write(self, state: State) -> None:
        folder = self.folder.unfinished_state(state.step)
        with self._removed_on_failure(folder):
            state.write(folder)
            self.folder.complete_state(folder, state.step, self.record)

    @contextmanager
    def _removed_on_failure(self, unfinished: Path) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self.accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def publish(self, step: int, path: Path, precision: str) -> None:
        """Give the bundle in the state of a step, the EMA's if there is one, its place for ComfyUI.

        On the main process. In full precision it is the same file under two names, and takes its
        space once. Raises TrainingError where a weight is beyond the precision's range.
        """
        publish(self.folder.state(step) / (EMA if self.ema else WEIGHTS), path, precision)
        log.info("Weights: %s", path)

    def load(self, state: Path) -> int:
        """Restore what `save` wrote to that folder; its step.

        Raises ConfigError for a damaged state, naming the next older one.
        """
        try:
            step, _ = read_state(state)
            if self.ema:
                load_bundle(state / EMA, self.nets, self.shape)
                set_ema(self.ema, self.gradients.parameters, step)
            load_bundle(state / WEIGHTS, self.nets, self.shape)
            self.gradients.load(state)
        except (DamagedStateError, WeightsError) as error:
            raise cannot_resume(state, error, self.ema is not None) from error
        log.info("Resuming from %s", state)
        self._newest = step
        return step
