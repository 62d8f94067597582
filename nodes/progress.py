"""Progress bars for loops in nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

import comfy.model_management
import comfy.utils

Item = TypeVar("Item")


def with_progress(items: Collection[Item]) -> Iterator[Item]:
    """Yield the items one by one, with progress on the node; stop when the user interrupts."""
    progress = comfy.utils.ProgressBar(len(items))
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        progress.update(1)
