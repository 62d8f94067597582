"""Models that make images at once, for tests of what goes on around them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from siamese_diffusion.synthesis.shard import Wanted


class Stub:
    """An image of one colour, which depends on the item's seed alone, with its mask drawn in."""

    def images(self, batch: Sequence[Wanted]) -> list[np.ndarray]:
        return [self.image(one) for one in batch]

    @staticmethod
    def image(wanted: Wanted) -> np.ndarray:
        colour = np.frombuffer(wanted.item.seed(0).to_bytes(8, "big")[:3], np.uint8)
        mask: np.ndarray = np.any(np.atleast_3d(wanted.mask), axis=-1)
        return np.where(mask[..., None], 255 - colour, colour).astype(np.uint8)


def make_stub(_device: str) -> Stub:
    return Stub()


def make_where_a_gpu_is_given(_device: str) -> Stub:
    """For an actor of Ray."""
    import ray

    if not ray.get_gpu_ids():
        raise ValueError("this actor was given no GPU")
    return Stub()


@dataclass
class Killed(Stub):
    """Kills its own process at its second batch, once: as the system does when memory runs out.

    `after`: a pattern in the marker's folder, of which a file must be there before.
    """

    marker: Path
    after: str | None = None
    batches: int = 0

    def images(self, batch: Sequence[Wanted]) -> list[np.ndarray]:
        self.batches += 1
        if self.batches == 2:
            try:
                self.marker.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                self.kill()
        return super().images(batch)

    def kill(self) -> None:
        while self.after is not None and not any(self.marker.parent.glob(self.after)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Slow(Stub):
    """Takes its time."""

    seconds: float

    def images(self, batch: Sequence[Wanted]) -> list[np.ndarray]:
        time.sleep(self.seconds)
        return super().images(batch)


@dataclass(frozen=True)
class MakeKilled:
    marker: Path
    after: str | None = None

    def __call__(self, _device: str) -> Killed:
        return Killed(self.marker, self.after)


@dataclass(frozen=True)
class MakeSlow:
    seconds: float

    def __call__(self, _device: str) -> Slow:
        return Slow(self.seconds)
