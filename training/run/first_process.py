"""What the first of several processes finds out, for all of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

from torch import distributed

from ...common.errors import MessageError
from ..errors import ConfigError

LONGEST = timedelta(days=1)  # that the others wait; their own collectives give up after minutes

Found = TypeVar("Found")


def from_first(find: Callable[[], Found]) -> Found:
    """What `find` returns, or the MessageError it raises, on the first process; on all of them.

    Raises ConfigError on the others where the first one has ended instead.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return find()
    found: list[Any] = [None]
    if distributed.get_rank() == 0:
        group = _group()
        try:
            found = [find()]
        except MessageError as error:
            found = [error]
        distributed.broadcast_object_list(found, src=0, group=group)
    else:
        try:
            distributed.broadcast_object_list(found, src=0, group=_group())
        except RuntimeError as error:  # of a connection that is closed
            raise ConfigError(
                "the first process has ended while it checked the data; its message says why."
            ) from error
    if isinstance(found[0], MessageError):
        raise found[0]
    return cast(Found, found[0])


def _group() -> distributed.ProcessGroup:
    """Of all processes, for objects on the CPU, whatever else they talk through."""
    return distributed.new_group(backend="gloo", timeout=LONGEST)
