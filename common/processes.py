"""Which of several processes this is, as launchers number them; and workers' ends."""

from __future__ import annotations

import os
import threading
from typing import Protocol

# torchrun's and accelerate's, then those of MPI libraries.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL_RANKS = (
    "LOCAL_RANK",
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
)


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the first: the one that reports."""
    return _number(RANKS) == "0"


def is_first_on_machine() -> bool:
    """Whether no process before this one runs on the same machine, and so sees the same files."""
    return _number(LOCAL_RANKS) == "0"


def _number(names: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in names if name in os.environ), "0")


def is_running(process: int) -> bool:
    """Whether a process of that number runs on this machine; False on Windows, which cannot say."""
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


class Parent(Protocol):
    """As `multiprocessing.parent_process` names it."""

    def join(self) -> None:
        """Return once it has ended."""


def end_with(parent: Parent | None) -> None:
    """From now on this process ends at once when its parent has ended.

    A parent that was killed cannot end its workers, which would go on with what they have.
    """
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent,), daemon=True).start()


def _wait_for(parent: Parent) -> None:
    parent.join()
    os._exit(1)
