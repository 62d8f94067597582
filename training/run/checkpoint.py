"""Everything that training resumes from, saved and restored as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from diffusers.training_utils import EMAModel

from ...models.weights import WeightsError, write_weights
from ..method.bundle import bundle_tensors, load_bundle
from ..method.ldm_keys import UNetShape
from ..method.networks import SiameseNetworks
from .ema import ema_weights, set_ema
from .folder import RunFolder
from .gradient_update import GradientUpdate
from .publish import publish
from .resume import Record
from .states import EMA, WEIGHTS, DamagedStateError, cannot_resume, read_state

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
    ) -> None:
        self.folder, self.record, self.shape = folder, record, shape
        self.nets, self.gradients, self.ema = nets, gradients, ema
        self.metadata = metadata
        self.accelerator = gradients.accelerator
        self._newest: int | None = None  # step of the state that was saved or loaded last

    def save(self, step: int) -> None:
        """Write the state of a step unless it is there."""
        if step == self._newest:
            return
        folder, main = self.folder.unfinished_state(step), self.accelerator.is_main_process
        if main:
            self.folder.clear(folder)
            self._write_bundle(folder / WEIGHTS, step)
            if self.ema:
                with ema_weights(self.ema, self.gradients.parameters):
                    self._write_bundle(folder / EMA, step)
        self.accelerator.wait_for_everyone()
        self.gradients.save(folder)
        self.accelerator.wait_for_everyone()
        if main:
            self.folder.complete_state(folder, step, self.record)
        self.accelerator.wait_for_everyone()
        self._newest = step

    def _write_bundle(self, path: Path, step: int) -> None:
        write_weights(path, bundle_tensors(self.nets, self.shape), self.metadata(step))

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
