"""Progress of a node's own loops."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

import comfy.model_management
import comfy.utils

Item = TypeVar("Item")


def with_progress(items: Collection[Item]) -> Iterator[Item]:
    """The items one by one: shows progress on the node, and ends when the user interrupts."""
    progress = comfy.utils.ProgressBar(len(items))
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        progress.update(1)
