"""A disk on which only small files have room, without rights or a disk of its own."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Within it this process writes no file beyond `size` bytes: the system answers EFBIG.

    It does so where a full disk answers ENOSPC, to Python and to libraries of other languages.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
