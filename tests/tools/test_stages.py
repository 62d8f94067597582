"""The line at the start of each stage: what it says is left, by a clock of the test's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from siamese_diffusion.tools import demo
from siamese_diffusion.tools.stages import Stage, Stages, roughly


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line]


def test_what_is_left_follows_the_speed_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    stages = Stages([Stage("first", 60), Stage("second", 200), Stage("third", 100)], clock)
    with stages.next():
        clock.now += 120  # twice as long as on two cores
    with stages.next():
        clock.now += 400
    with stages.next():
        clock.now += 100
    assert lines(capsys) == [
        "[1/3] first: about 60 s; in all about 6 minutes left on two cores (0 s so far)",
        "[2/3] second: about 7 minutes; in all about 10 minutes left here (120 s so far)",
        "[3/3] third: about 3 minutes; in all about 3 minutes left here (520 s so far)",
    ]
    assert stages.seconds == 620


def test_what_is_there_already_takes_no_time_and_teaches_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock, there = Clock(), Stage("there", 600, lambda: True)
    stages = Stages([there, there, Stage("sampling", 60)], clock)
    for seconds in (1, 1, 60):
        with stages.next():
            clock.now += seconds
    assert lines(capsys) == [
        "[1/3] there: there already; in all about 60 s left on two cores (0 s so far)",
        "[2/3] there: there already; in all about 60 s left on two cores (1 s so far)",
        "[3/3] sampling: about 60 s; in all about 60 s left on two cores (2 s so far)",
    ]


def test_a_short_stage_teaches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    stages = Stages([Stage("pairs", 2), Stage("training", 600)], clock)
    with stages.next():
        clock.now += 10
    with stages.next():
        pass
    assert "about 10 minutes left on two cores" in lines(capsys)[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "10 s"), (14, "10 s"), (96, "100 s"), (120, "2 minutes"), (700, "12 minutes")],
)
def test_times_are_rough(seconds: float, text: str) -> None:
    assert roughly(seconds) == text


@pytest.mark.parametrize("variant", [demo.SMALL, demo.LARGE])
def test_the_demos_know_their_long_stages(
    variant: demo.Variant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = demo.Demo(tmp_path, variant.settings)
    with made.stages.next():
        pass
    [line] = lines(capsys)
    assert re.search(r"in all about [1-9]\d* minutes left on two cores", line)
