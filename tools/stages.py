"""The stages of a long command: a line at the start of each says how long is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

LEARNT_FROM = 20.0  # estimated seconds of finished stages that tell how fast this machine is


@dataclass(frozen=True)
class Stage:
    """seconds: about how long it takes on two cores. is_done: whether its result is there."""

    title: str
    seconds: float
    is_done: Callable[[], bool] = lambda: False


class Stages:
    """Prints each stage's title, about how long it takes, and what is left of all of them.

    What the finished stages took, compared with their estimates, corrects those of the others.
    """

    def __init__(
        self, stages: Sequence[Stage], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stages, self._clock = stages, clock
        self._start = clock()
        self._number = 0
        self._estimated = self._taken = 0.0  # seconds of the stages that this run has done

    @property
    def seconds(self) -> float:
        """How long this run has taken so far."""
        return self._clock() - self._start

    @contextmanager
    def next(self) -> Iterator[None]:
        """Within it, the next stage runs."""
        stage, begun = self._stages[self._number], self._clock()
        kept = stage.is_done()
        self._number += 1
        place = f"[{self._number}/{len(self._stages)}] {stage.title}"
        print(f"\n{place}: {self._outlook(kept)} ({self.seconds:.0f} s so far)", flush=True)
        yield
        if not kept:
            self._estimated += stage.seconds
            self._taken += self._clock() - begun

    def _outlook(self, kept: bool) -> str:
        """How long the stage that begins takes, and all that is left with it."""
        learnt = self._estimated >= LEARNT_FROM
        factor = self._taken / self._estimated if learnt else 1.0
        current = 0.0 if kept else self._stages[self._number - 1].seconds
        later = [stage.seconds for stage in self._stages[self._number :] if not stage.is_done()]
        own = "there already" if kept else f"about {roughly(factor * current)}"
        left = roughly(factor * (current + sum(later)))
        return f"{own}; in all about {left} left {'here' if learnt else 'on two cores'}"


def roughly(seconds: float) -> str:
    """In words, to ten seconds below two minutes, then to a minute."""
    if seconds < 120:
        return f"{max(1, round(seconds / 10)) * 10} s"
    return f"{round(seconds / 60)} minutes"
