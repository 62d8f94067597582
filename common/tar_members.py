"""Files that lie in a tar, by a path that leads into it: out/pairs-00000.tar/a_1.image.png.

Lists of pairs name them like any other file, so that whatever reads a list reads tar shards too.
"""

from __future__ import annotations

import errno
import io
import stat
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .text import shortened

SUFFIX = ".tar"
LARGEST_MEMBER = 640 << 20  # bytes; the largest pictures there may be, uncompressed
TARS_KEPT = 64  # whose tables of contents are in memory, 1 MB for 3000 members


class Place(NamedTuple):
    """Where a member's content lies in its tar, in bytes."""

    offset: int
    size: int


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, also one in a tar. Raises OSError; FileNotFoundError for none."""
    tar = _tar(path)
    if tar is None:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for ever
            raise OSError(errno.EINVAL, "a pipe or a device; expected a file", str(path))
        return path.open("rb")
    state = tar.stat()
    members = _members(tar, state.st_size, state.st_mtime_ns)
    name = path.relative_to(tar).as_posix()
    if name not in members:
        raise FileNotFoundError(2, "No such file or directory", str(path))
    if members[name].size > LARGEST_MEMBER:
        found = f"{members[name].size >> 20} MiB, more than {LARGEST_MEMBER >> 20}"
        raise OSError(None, f"a file of {found} in a tar", str(path))
    with tar.open("rb") as file:
        file.seek(members[name].offset)
        return io.BytesIO(file.read(members[name].size))


def file_of(path: Path) -> Path:
    """The file that holds it: the tar, of a member of one, or else itself."""
    return _tar(path) or path


def in_tar(path: Path) -> bool:
    return _tar(path) is not None


def is_there(path: Path) -> bool:
    """Whether it is a file, or a member of a tar."""
    if not in_tar(path):
        return path.is_file()
    try:
        open_binary(path).close()
    except OSError:
        return False
    return True


def _tar(path: Path) -> Path | None:
    return next((p for p in path.parents if p.suffix == SUFFIX and p.is_file()), None)


@lru_cache(TARS_KEPT)
def _members(tar: Path, size: int, _mtime: int) -> dict[str, Place]:
    """The regular files of a tar, by name. Raises OSError for a file that is none."""
    found = {}
    end = -1  # of what was looked at
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.offset <= end or member.size < 0 or member.offset_data > size:
                    # A size below zero would lead back, and round and round.
                    raise tarfile.ReadError("a size that cannot be")
                end = member.offset
                if member.isreg():
                    found[member.name] = Place(member.offset_data, member.size)
    except OSError:
        raise
    except Exception as error:  # headers made up to fail raise nearly anything
        raise OSError(None, f"damaged tar ({shortened(str(error))})", str(tar)) from error
    return found
