"""Whether all machines of a run see one output folder."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ..errors import ConfigError
from .lock import read_lock

VISIBLE_WITHIN = 60  # seconds; network file systems show new files late
POLL_SECONDS = 0.2


def check_shared_folder(folder: Path, accelerator: Accelerator) -> None:
    """Raise ConfigError, on all processes, unless all see the lock that the first one holds there.

    Only the first writes states, but all resume from them.
    """
    if accelerator.num_processes == 1:
        return
    [expected] = broadcast_object_list([read_lock(folder)])
    blind = [] if _sees(folder, expected) else [socket.gethostname()]
    machines = gather_object(blind)
    if machines:
        first = broadcast_object_list([socket.gethostname()])[0]
        raise ConfigError(
            f"--output_dir {folder}: {', '.join(sorted({*machines}))} does not see there what the "
            f"first process, on {first}, has written. Give a folder on a file system that all "
            "machines share, under the same path."
        )


def _sees(folder: Path, expected: bytes) -> bool:
    deadline = time.monotonic() + VISIBLE_WITHIN
    while read_lock(folder) != expected:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
