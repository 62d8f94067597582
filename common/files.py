"""Writing files so that none is ever half there, whatever ends the process or the power."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>[0-9]+)\.tmp")
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")  # as Rust's libraries tell of one
# What file systems answer that cannot write the names in a folder to the disk on request, and what
# a folder answers that is not ours to read, such as the one that holds all users' folders.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)


@contextmanager
def replacing(path: Path, sync_name: bool = True) -> Iterator[Path]:
    """A temporary file in the same folder, which takes the place of `path` when all went well.

    Its name is .NAME.PID.tmp, so that what a killed process leaves can be told and removed. It is
    on the disk before it takes the place: a loss of power leaves the old file or the new one.
    sync_name: wait until the name is on the disk too; without it a loss of power may also leave
    the new file under its temporary name, or none.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        if sync_name:
            sync(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # what a write raises names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def stands_in_for(path: Path) -> str | None:
    """The name of the file that a temporary one of `replacing` was to become; None for others."""
    found = TEMPORARY.fullmatch(path.name)
    return found["name"] if found else None


def writer_of(path: Path) -> int | None:
    """The number of the process that wrote a temporary file of `replacing`; None for others."""
    found = TEMPORARY.fullmatch(path.name)
    return int(found["process"]) if found else None


def link_or_copy(source: Path, path: Path) -> None:
    """Give `source` a second name, which takes the place of `path`.

    Where the file system has no hard links, `path` becomes a copy.
    """
    with replacing(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def system_error(error: BaseException, path: Path) -> OSError | None:
    """What the system answered to a write, where a library hides it in an error of its own.

    safetensors has it in its text, torch's zip writer behind its own complaint.
    """
    if found := SYSTEM_ERROR.search(str(error)):
        number = int(found[1])
        return OSError(number, os.strerror(number), str(path), number)
    hidden = error.__context__
    if isinstance(hidden, OSError) and hidden.errno is not None:
        return OSError(hidden.errno, hidden.strerror, str(path))
    return None


def describe_error(error: OSError) -> str:
    """The file and what the system said: "runs/x: No space left on device"."""
    if error.errno is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def sync(path: Path) -> None:
    """Return once a file's content, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # Windows has no such call
        return
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (folder and error.errno in NO_FOLDER_SYNC):
            raise


def sync_upwards(folders: Iterable[Path], top: Path) -> None:
    """`sync` for the names in folders and in those around them, up to `top`; each once."""
    places: set[Path] = set()
    for folder in folders:
        for place in (folder, *folder.parents):
            places.add(place)
            if place == top:
                break
    for place in places:
        sync(place)


def sync_tree(folder: Path) -> None:
    """`sync` for all that is in a folder, and the folder itself."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
