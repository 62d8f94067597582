"""How far a run is: a bar on a terminal, and lines in the log of a batch job."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

from .shard import Outcome

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60


class Progress:
    """Counts pairs; the speed is that of the images made now, not of those that were there."""

    def __init__(self, pairs: int, batch_size: int) -> None:
        """batch_size: pairs that come at once; lines are said after whole batches, whose speed is
        known."""
        self._batch_size = batch_size
        self._pairs, self._done, self._made = pairs, 0, 0
        self._started = self._said = time.monotonic()
        self._bar = tqdm(
            total=pairs, desc="pairs", leave=False, disable=None,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
        )  # fmt: skip

    def add(self, outcome: Outcome) -> None:
        self._done += 1
        self._made += outcome.state == "made"
        if outcome.state == "made":
            self._bar.set_postfix_str(self._speed(), refresh=False)
        self._bar.update()
        whole = self._made % self._batch_size == 0
        if self._bar.disable and whole and time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            log.info("%d of %d pairs, %s", self._done, self._pairs, self._speed())

    def close(self) -> None:
        self._bar.close()
        sys.stderr.flush()

    def _speed(self) -> str:
        rate = self._made / max(time.monotonic() - self._started, 1e-9)
        if not rate:
            return "none made yet"
        seconds = (self._pairs - self._done) / rate
        hours, minutes = divmod(int(seconds) // 60, 60)
        return f"{rate:.2f} images/s, {hours}:{minutes:02}:{int(seconds) % 60:02} left"
