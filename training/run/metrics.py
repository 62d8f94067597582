"""metrics.jsonl: a line of values for each step, and one for each validation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError

# What reading a value of damaged JSON raises: no JSON, deep nesting, other types, infinity.
NOT_FACTS = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


def append(path: Path, step: int, values: Mapping[str, float]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
    except OSError as error:
        error.filename = str(path)  # what a write raises names no file
        raise


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines as dictionaries, one by one; none where there is no file.

    While the file is read, the training loop may be writing its next line.
    """
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)


def lines_until(path: Path, step: int) -> list[str]:
    """The lines of the steps up to `step`, as they are in the file.

    A run killed after its last state has logged steps that will be repeated, the last of them
    perhaps with half a line: these are left out. Raises ConfigError for a damaged line before them.
    """
    kept: list[str] = []
    last = 0
    for number, line in enumerate(_lines(path), 1):
        found = _step_of(line)
        if found is None and last < step:
            raise ConfigError(
                f"{path}, line {number}: damaged ({line[:40]!r}). Training does not need this "
                "file: delete the line, or move the file away, and give the same command again."
            )
        if found is None or found > step:
            break
        kept.append(line)
        last = found
    return kept


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)


def _step_of(line: str) -> int | None:
    """The step of a whole line, else None."""
    try:
        values = json.loads(line) if line.endswith("\n") else {}
        numbers = all(type(value) in (int, float) for value in values.values())
        return int(values["step"]) if numbers else None
    except (*NOT_FACTS, AttributeError):  # a list has no values
        return None
