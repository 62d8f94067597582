"""One training at a time in an output folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import ConfigError
from .metrics import NOT_FACTS

log = logging.getLogger(__name__)

LOCK = ".training.lock"
# The byte that is locked lies behind what the file holds: Windows lets nobody read a locked one.
LOCKED_BYTE = 1 << 30
HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # some network file systems

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        # Not flock: that is inherited by forked children, and would outlive its owner in them.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LOCKED_BYTE)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder, made if need be, for this process; what was made and is empty is removed.

    The system holds the lock and drops it with the process, however that ends: a file that a
    killed one has left behind locks nothing. Raises ConfigError naming the process that holds it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    try:
        with _acquire(folder, path) as file:
            file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())
            file.flush()
            try:
                yield
            finally:
                if os.name != "nt":
                    path.unlink(missing_ok=True)  # while it is held: nobody else's is removed
    finally:
        if os.name == "nt":  # an open file cannot be removed there, nor that of another process
            with suppress(OSError):
                path.unlink()
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


def check_lock(folder: Path) -> None:
    """Raise ConfigError if another process holds the folder; nothing is made or written."""
    path = folder / LOCK
    if path.is_file():
        with path.open("rb+") as file:
            _try_lock(folder, file)


def read_lock(folder: Path) -> bytes:
    """What the holder has written there; b"" where nothing is to be seen."""
    try:
        return (folder / LOCK).read_bytes()
    except OSError:
        return b""


def _acquire(folder: Path, path: Path) -> IO[bytes]:
    """The open file, empty and locked: the one that has the name, not one removed meanwhile."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb+")
        try:
            _try_lock(folder, file)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    file.seek(0)
                    file.truncate()
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _try_lock(folder: Path, file: IO[bytes]) -> None:
    try:
        _lock(file)
    except OSError as error:
        if error.errno in NO_LOCKS:
            log.warning(
                "Note: %s: its file system has no locks (%s). Nothing keeps a second training out.",
                folder, error.strerror,
            )  # fmt: skip
            return
        if error.errno not in HELD:
            raise
        raise ConfigError(
            f"--output_dir {folder}: another training is running in it ({_owner(file)}). Wait for "
            "it to end, stop it, or choose another --output_dir."
        ) from error


def _owner(file: IO[bytes]) -> str:
    try:
        file.seek(0)
        owner = json.loads(file.read(1000))
        return f"process {int(owner['process'])} on {str(owner['host'])!r}"
    except (OSError, *NOT_FACTS):
        return "a process that has not yet said which"
