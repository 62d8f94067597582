"""Datasets from strangers: each fault is found by the check, with the file, and read no further."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from support.hostile_data import CASES, Case, good
from support.remedies import missing_parts
from support.small_datasets import load, problems

SECONDS = 60  # for one case on a busy machine: only what hangs takes them


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_fault_is_reported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    monkeypatch.chdir(good(tmp_path))
    case.damage(tmp_path)
    before = sorted(tmp_path.iterdir())
    start = time.monotonic()
    report = problems(tmp_path, **flags(case, tmp_path))
    heading, *lines = report.splitlines()
    assert heading.startswith(str(tmp_path / case.flags.get("dataset_config", "prompt.jsonl")))
    told = [re.sub(r"^ *line \d: ", "", line) for line in lines if case.says in line]
    assert told, report
    for line in told:  # each says what is wrong, and what to do
        paths = re.findall(rf"{re.escape(str(tmp_path))}[^\s;]*", line)
        assert missing_parts(line, *paths) == [], line
    assert report.isprintable() or (
        set(report) - set("\n") and report.replace("\n", "").isprintable()
    )
    assert len(report) < 20_000
    assert "Traceback" not in report
    assert time.monotonic() - start < SECONDS
    assert sorted(tmp_path.iterdir()) == before  # nothing ran


def flags(case: Case, folder: Path) -> dict[str, object]:
    if "dataset_config" in case.flags:
        return {**case.flags, "dataset_config": folder / "x.toml"}
    return case.flags


def test_without_a_fault_they_are_read(tmp_path: Path) -> None:
    assert len(load(good(tmp_path)).pairs) == 3
