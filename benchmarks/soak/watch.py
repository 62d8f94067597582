"""Memory and file handles of a process while it works."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil

KEPT = 120  # samples in the results, evenly spread
MEMORY_TARGET = 0.05


@dataclass(frozen=True)
class Sample:
    """done: pieces of work so far. memory: bytes in RAM that are the process's own, without the
    files that it has mapped. handles: open files and sockets."""

    done: int
    memory: int
    handles: int


class Watch:
    """The samples of a process, in order."""

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self.samples: list[Sample] = []

    def sample(self, done: int) -> None:
        """What the process holds now. Raises psutil.NoSuchProcess once it has ended."""
        memory = self._process.memory_info()
        own = memory.rss - getattr(memory, "shared", 0)  # Linux alone counts mapped files
        windows = os.name == "nt"
        handles = self._process.num_handles() if windows else self._process.num_fds()
        self.samples.append(Sample(done, own, handles))


@dataclass(frozen=True)
class Growth:
    """How much more a process holds at the end of its work than after its start.

    The start is the second tenth of the work, since the first loads and warms up; the end is the
    last tenth. Of each the median sample counts; in short work without one in the second tenth,
    the first.
    """

    memory_before: float
    memory_after: float
    handles_before: float
    handles_after: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Growth:
        first, last = samples[0].done, samples[-1].done
        tenth = (last - first) / 10
        before = [s for s in samples if tenth <= s.done - first <= 2 * tenth]
        before = before or [samples[0]]
        after = [s for s in samples if s.done - first >= 9 * tenth]
        return cls(
            statistics.median(s.memory for s in before),
            statistics.median(s.memory for s in after),
            statistics.median(s.handles for s in before),
            statistics.median(s.handles for s in after),
        )

    @property
    def memory(self) -> float:
        """Share of the memory before that came on top; negative where some was given back."""
        return self.memory_after / self.memory_before - 1

    @property
    def handles(self) -> int:
        return round(self.handles_after - self.handles_before)

    @property
    def good(self) -> bool:
        return self.memory < MEMORY_TARGET and self.handles <= 0


def findings(samples: Sequence[Sample], equal: bool) -> dict[str, Any]:
    """Everything that is kept of a part. equal: its last result and its first, of one seed."""
    growth = Growth.of(samples)
    step = max(1, len(samples) // KEPT)
    return {
        "done": samples[-1].done,
        "equal": equal,
        "memory_growth": growth.memory,
        "handles_growth": growth.handles,
        "good": growth.good and equal,
        **asdict(growth),
        "samples": [[s.done, s.memory, s.handles] for s in samples[::step]],
    }
