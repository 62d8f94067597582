"""Everything that training resumes from, saved and restored as a whole."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel

from ...models.weights import write_weights
from ..method.bundle import bundle_tensors, load_bundle
from ..method.ldm_keys import UNetShape
from ..method.networks import SiameseNetworks
from .folder import EMA, STATE_WEIGHTS, RunFolder, read_state
from .gradient_update import GradientUpdate
from .resume import Record

log = logging.getLogger(__name__)


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
    ) -> None:
        self.folder, self.record, self.shape = folder, record, shape
        self.nets, self.gradients, self.ema = nets, gradients, ema
        self.accelerator = gradients.accelerator
        self._newest: int | None = None  # step of the state that was saved or loaded last

    def save(self, step: int, keep: int) -> None:
        """Write the state of a step unless it is there, and keep the newest `keep`."""
        if step == self._newest:
            return
        folder, main = self.folder.unfinished_state(step), self.accelerator.is_main_process
        if main:
            self.folder.clear(folder)
            write_weights(folder / STATE_WEIGHTS, bundle_tensors(self.nets, self.shape), {})
            if self.ema:
                torch.save(self.ema.state_dict(), folder / EMA)
        self.accelerator.wait_for_everyone()
        self.gradients.save(folder)
        self.accelerator.wait_for_everyone()
        if main:
            self.folder.complete_state(folder, step, self.record)
            self.folder.prune(keep)
        self.accelerator.wait_for_everyone()
        self._newest = step

    def load(self, state: Path) -> int:
        """Restore what `save` wrote to that folder; its step."""
        load_bundle(state / STATE_WEIGHTS, self.nets, self.shape)
        self.gradients.load(state)
        if self.ema:
            load_ema(self.ema, state / EMA, self.accelerator.device)
        log.info("Resuming from %s", state)
        self._newest = read_state(state)[0]
        return self._newest


def load_ema(ema: EMAModel, path: Path, device: torch.device) -> None:
    """Read an EMA that was saved on any device."""
    ema.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    ema.to(device)
