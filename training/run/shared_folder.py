"""Whether all machines of a run see one output folder."""

from __future__ import annotations

import socket
import time

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ...common.folder_lock import FolderLock, this_process
from ..errors import ConfigError

VISIBLE_WITHIN = 60  # seconds; network file systems show new files late
POLL_SECONDS = 0.2


def check_shared_folder(lock: FolderLock, accelerator: Accelerator) -> None:
    """Raise ConfigError, on all processes, unless all see the lock that the first one holds there.

    Only the first writes states, but all resume from them.
    """
    if accelerator.num_processes == 1:
        return
    [expected] = broadcast_object_list([this_process()])
    sees = accelerator.is_main_process or _sees(lock, expected)
    machines = gather_object([] if sees else [socket.gethostname()])
    if machines:
        first = broadcast_object_list([socket.gethostname()])[0]
        raise ConfigError(
            f"{lock.flag} {lock.folder}: {', '.join(sorted({*machines}))} does not see there what "
            f"the first process, on {first}, has written. Give a folder on a file system that all "
            "machines share, under the same path."
        )


def _sees(lock: FolderLock, expected: bytes) -> bool:
    deadline = time.monotonic() + VISIBLE_WITHIN
    while lock.read() != expected:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
