"""Work beside the loop: in order, not waited for, and no failure lost."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest
from siamese_diffusion.training.run import metrics
from siamese_diffusion.training.run.background import Background


def test_tasks_run_in_order_while_the_loop_goes_on() -> None:
    go_on, done = Event(), list[str]()
    with Background() as background:
        background.start(lambda: done.append("first" if go_on.wait(60) else "too late"))
        background.start(lambda: done.append("second"))
        assert background.busy and done == []
        go_on.set()
        background.wait()
        assert done == ["first", "second"] and not background.busy
        background.start(lambda: done.append("third"))
    assert done == ["first", "second", "third"]


def fail() -> None:
    raise OSError("no space left")


def test_what_a_task_raises_is_raised_in_the_loop() -> None:
    background = Background()
    background.start(fail)
    with pytest.raises(OSError, match="no space left"):
        background.wait()
    background.wait()  # once
    with pytest.raises(OSError, match="no space left"), background:
        background.start(fail)


def test_an_error_of_the_loop_is_not_hidden_by_a_tasks() -> None:
    with pytest.raises(ValueError, match="of the loop"), Background() as background:
        background.start(fail)
        raise ValueError("of the loop")


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo', encoding="utf-8")
    assert [*metrics.read(path)] == [{"step": 1, "loss": 0.5}]
