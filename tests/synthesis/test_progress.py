"""What a batch job's log says of a run's speed."""

from __future__ import annotations

import logging
import time

import pytest
from siamese_diffusion.synthesis.progress import Progress
from siamese_diffusion.synthesis.shard import Outcome


def test_the_speed_is_that_of_whole_batches(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its pairs come at once: after the first one alone, the rest would seem to take hours."""
    caplog.set_level(logging.INFO)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    told = Progress(12, batch_size=4)
    made, there = Outcome("a", "made"), Outcome("b", "there")
    for clock[0], outcome in ((100.0, made), (200.0, made), (250.0, there)):
        for _ in range(4):
            told.add(outcome)
    told.close()
    assert caplog.messages == [
        "4 of 12 pairs, 0.04 images/s, 0:03:20 left",
        "8 of 12 pairs, 0.04 images/s, 0:01:40 left",
    ]
