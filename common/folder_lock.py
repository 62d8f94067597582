"""One run at a time in a folder: a lock that nothing but its owner keeps."""

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

from .errors import MessageError
from .text_files import parse_json

log = logging.getLogger(__name__)

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


class FolderLock:
    """Keeps a second run of the same work out of a folder.

    The system holds the lock and drops it with the process, however that ends: a file that a
    killed one has left behind locks nothing.
    """

    def __init__(
        self, folder: Path, name: str, flag: str, work: str, error: type[MessageError]
    ) -> None:
        """name: of the lock's file. For the message where it is held, an `error`: the flag that
        gives the folder, and what is done there, such as "training"."""
        self.folder, self.path = folder, folder / name
        self.flag, self.work, self.error = flag, work, error

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the folder, made if need be; what was made and is empty is removed at the end.

        Raises `error` naming the process that holds it.
        """
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._acquire() as file:
                file.write(this_process())
                file.flush()
                try:
                    yield
                finally:
                    if os.name != "nt":
                        self.path.unlink(missing_ok=True)  # while held: nobody else's is removed
        finally:
            if os.name == "nt":  # an open file cannot be removed there, nor that of another process
                with suppress(OSError):
                    self.path.unlink()
            for empty in made:
                with suppress(OSError):
                    empty.rmdir()

    def check(self) -> None:
        """Raise `error` if another process holds the folder; nothing is made or written.

        Not for the holder: to close a file drops all locks that a process has on it.
        """
        with suppress(PermissionError):  # another user's: to hold the folder fails by itself
            if self.path.is_file():
                with self.path.open("rb+") as file:
                    self._try_lock(file)

    def read(self) -> bytes:
        """What the holder has written there; b"" where nothing is to be seen.

        Not for the holder, as `check`.
        """
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def _acquire(self) -> IO[bytes]:
        """The open file, empty and locked: the one that has the name, not one removed meanwhile."""
        while True:
            file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "rb+")
            try:
                self._try_lock(file)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                        file.seek(0)
                        file.truncate()
                        return file
            except BaseException:
                file.close()
                raise
            file.close()

    def _try_lock(self, file: IO[bytes]) -> None:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in NO_LOCKS:
                log.warning(
                    "Note: %s: its file system has no locks (%s). Nothing keeps a second %s out.",
                    self.folder, error.strerror, self.work,
                )  # fmt: skip
                return
            if error.errno not in HELD:
                raise
            raise self.error(
                f"{self.flag} {self.folder}: another {self.work} is running in it "
                f"({_owner(file)}). Wait for it to end, stop it, or choose another {self.flag}."
            ) from error


def this_process() -> bytes:
    """What a lock held by this process says."""
    return json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode()


def _owner(file: IO[bytes]) -> str:
    try:
        file.seek(0)
        owner = parse_json(file.read(1000).decode())
        return f"process {int(owner['process'])} on {str(owner['host'])!r}"
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return "a process that has not yet said which"
