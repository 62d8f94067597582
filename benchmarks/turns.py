"""Long runs side by side in short turns, so that whatever else the machine does slows all alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

Side = Callable[[Callable[[], None]], object]  # a run that calls its argument after each step


class Turns:
    """Threads by name that run one at a time, in turn; `seconds` is what each has run."""

    def __init__(self, names: Iterable[str]) -> None:
        self._ring = list(names)  # the first one runs
        self._changed = threading.Condition()
        self._began = 0.0
        self.seconds = dict.fromkeys(self._ring, 0.0)

    def begin(self, name: str) -> None:
        """Wait for its turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._ring[0] == name)
        self._began = time.perf_counter()

    def end(self, name: str, done: bool = False) -> None:
        """The next one's turn; done: it needs no other."""
        self.seconds[name] += time.perf_counter() - self._began
        with self._changed:
            self._ring.remove(name)
            if not done:
                self._ring.append(name)
            self._changed.notify_all()


def interleave_steps(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round. Each should have run once before.

    In a round all sides run once, a step of each in turn, each in a thread of its own.
    """
    measured = [_round(sides) for _ in range(rounds)]
    return {name: [seconds[name] for seconds in measured] for name in sides}


def _round(sides: Mapping[str, Side]) -> dict[str, float]:
    turns = Turns(sides)

    def run(name: str) -> None:
        def step_done() -> None:
            turns.end(name)
            turns.begin(name)

        turns.begin(name)
        try:
            with torch.inference_mode():  # it holds for a thread only
                sides[name](step_done)
        finally:
            turns.end(name, done=True)

    with ThreadPoolExecutor(len(sides)) as pool:
        for future in [pool.submit(run, name) for name in sides]:
            future.result()
    return turns.seconds
