"""Everything that training goes on from, saved and restored as a whole."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel

from ..models.weights import write_weights
from .checkpoints import (
    AVERAGE,
    STATE_WEIGHTS,
    RunFolder,
    bundle_tensors,
    load_bundle,
    read_state,
)
from .ldm_keys import UNetShape
from .networks import SiameseNetworks
from .record import Record
from .updates import Update

log = logging.getLogger(__name__)


class States:
    """Saves and restores weights, average, optimizer, learning rate and step; on all processes.

    Order, noise and caption dropout are functions of (seed, step): no random state is kept.
    """

    def __init__(
        self,
        folder: RunFolder,
        record: Record,
        shape: UNetShape,
        nets: SiameseNetworks,
        update: Update,
        average: EMAModel | None,
    ) -> None:
        self.folder, self.record, self.shape = folder, record, shape
        self.nets, self.update, self.average = nets, update, average
        self.accelerator = update.accelerator
        self._newest: int | None = None  # step of the state that was saved or loaded last

    def save(self, step: int, keep: int) -> None:
        """Write the state of a step unless it is there, and keep the newest `keep`."""
        if step == self._newest:
            return
        folder, main = self.folder.unfinished_state(step), self.accelerator.is_main_process
        if main:
            self.folder.clear(folder)
            write_weights(folder / STATE_WEIGHTS, bundle_tensors(self.nets, self.shape), {})
            if self.average:
                torch.save(self.average.state_dict(), folder / AVERAGE)
        self.accelerator.wait_for_everyone()
        self.update.save(folder)
        self.accelerator.wait_for_everyone()
        if main:
            self.folder.complete_state(folder, step, self.record)
            self.folder.prune(keep)
        self.accelerator.wait_for_everyone()
        self._newest = step

    def load(self, state: Path) -> int:
        """Restore what `save` wrote to that folder; its step."""
        load_bundle(state / STATE_WEIGHTS, self.nets, self.shape)
        self.update.load(state)
        if self.average:
            load_average(self.average, state / AVERAGE, self.accelerator.device)
        log.info("Resuming from %s", state)
        self._newest = read_state(state)[0]
        return self._newest


def load_average(average: EMAModel, path: Path, device: torch.device) -> None:
    """Read a moving average that was saved on any device."""
    average.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    average.to(device)
