"""What the first process finds reaches the others: values, errors, and that it has ended."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from siamese_diffusion.common.pairs import DatasetError
from siamese_diffusion.training.run.first_process import from_first
from torch import distributed

pytestmark = pytest.mark.slow  # processes that import torch


def found_on_first(what: str) -> list[str]:
    assert distributed.get_rank() == 0
    if what == "error":
        raise DatasetError("pairs.jsonl", ["a", "b"])
    if what == "interrupt":
        raise KeyboardInterrupt
    return [what]


def take_over(rank: int, meeting: str, what: str, results: Any) -> None:
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    try:
        results.put((rank, from_first(lambda: found_on_first(what))))
    except (Exception, KeyboardInterrupt) as error:
        results.put((rank, type(error).__name__, str(error)))


REPORT = "pairs.jsonl: 2 problems in this dataset; nothing was started.\n  a\n  b"
ENDED = "the first process has ended while it checked the data; its message says why."


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("value", [(0, ["value"]), (1, ["value"])]),
        ("error", [(0, "DatasetError", REPORT), (1, "DatasetError", REPORT)]),
        ("interrupt", [(0, "KeyboardInterrupt", ""), (1, "ConfigError", ENDED)]),
    ],
)
def test_the_others_take_it_over(
    what: str, expected: list[tuple[Any, ...]], tmp_path: Path,
    processes: multiprocessing.context.ForkServerContext,
) -> None:  # fmt: skip
    results = processes.Queue()
    meeting = (tmp_path / "meeting").as_uri()
    ranks = [
        processes.Process(target=take_over, args=(rank, meeting, what, results)) for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    found = sorted(results.get() for _ in ranks)
    for process in ranks:
        process.join()
    assert found == expected


def test_one_process_finds_for_itself() -> None:
    assert from_first(lambda: 3) == 3
