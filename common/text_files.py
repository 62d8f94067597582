"""Text files that others have written: of a bounded size, and never waited for."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .text import shortened

LARGEST = 64 << 20  # bytes of a configuration, caption or table
LARGEST_LIST = 1 << 30  # of a list that is read line by line; millions of pairs
LONGEST_LINE = 1 << 20


def check_regular(path: Path) -> None:
    """Raise OSError for a path that cannot be opened, ValueError for a pipe or a device."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise ValueError("a pipe or a device; expected a file")


def read_text(path: Path, largest: int = LARGEST) -> str:
    """A file's text, without a byte order mark. largest: size in bytes that is read.

    Raises OSError, or ValueError that says what is wrong without the file's name.
    """
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"larger than {largest >> 20} MiB; expected a short text file")
    return _decoded(data)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1, without their ends.

    Raises OSError, or ValueError that says what is wrong without the file's name.
    """
    check_regular(path)
    # By "\n" alone: captions may hold U+2028 and others that str.splitlines takes for line ends.
    read = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
            if len(line) > LONGEST_LINE or read > LARGEST_LIST:
                limit = f"a line of {LONGEST_LINE >> 20} MiB, or {LARGEST_LIST >> 30} GiB in all"
                raise ValueError(f"line {number}: longer than {limit}; expected lines of JSON")
            text = _decoded(line, read)
            read += len(line)
            if text.strip():
                yield number, text.rstrip("\n")


def _decoded(data: bytes, before: int = 0) -> str:
    """before: bytes of the file that come before these."""
    try:
        return data.decode("utf-8" if before else "utf-8-sig")
    except UnicodeDecodeError as error:
        place = before + error.start
        raise ValueError(f"not UTF-8 ({error.reason} at byte {place}); save it as UTF-8") from None


def parse_json(text: str) -> Any:
    """Raises ValueError for what is no JSON, is nested too deeply or holds an endless number."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError:
        raise ValueError("not JSON that can be read (nested too deeply)") from None
    except ValueError as error:  # of a number with thousands of digits
        raise ValueError(f"not JSON that can be read ({shortened(str(error))})") from None
