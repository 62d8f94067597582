"""How many pixels are decoded at a time: memory is bounded whatever files a dataset has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

LARGEST_SIDE = 16_384  # pixels, of the images that a model is trained at
LARGEST_SAMPLED = 4096  # pixels, of the width and height of a sampled image
# A pair of the largest files there may be. Checking it takes about 3.5 GB.
PIXELS_IN_FLIGHT = 2 * 8192 * 8192


class PixelBudget:
    """Lets threads wait until the pixels that others have decoded are let go."""

    def __init__(self, pixels: int = PIXELS_IN_FLIGHT) -> None:
        self._free = self._all = pixels
        self._changed = Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels of the budget; what is more than all of it waits to be alone."""
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


BUDGET = PixelBudget()  # of the whole process
