"""Weight files from strangers: refused with a message, in little time and memory; none hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.hostile_weights import ACCEPTED, HOSTILE
from support.remedies import missing_parts

TESTS = Path(__file__).resolve().parents[1]
READ = (
    "import sys; sys.path.insert(0, sys.argv[1]); import conftest, pathlib;"
    "from support.hostile_weights import read_folder; read_folder(pathlib.Path(sys.argv[2]))"
)
SAFETY = 300  # seconds for the whole table: only what hangs takes them


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process of its own says of all files, and how much memory reading them took."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, write in {**HOSTILE, **ACCEPTED}.items():
        write(folder / name)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(TESTS), str(folder)],
        capture_output=True, check=True, timeout=SAFETY, env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder.parent,
    )  # fmt: skip
    assert not (folder.parent / "ran").exists()
    return {**json.loads(done.stdout), "folder": str(folder)}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_a_message(outcome: dict[str, Any], name: str) -> None:
    message = outcome["told"][name]
    assert message is not None, "accepted"
    file_name = name.encode("utf-8", "backslashreplace").decode()
    assert f"{Path(outcome['folder']).name}/{file_name}: " in message
    assert missing_parts(message, f"{outcome['folder']}/{file_name}", file_name) == []
    assert "\n" not in message
    assert len(message) < 700
    message.encode()  # no lone surrogates


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_good_file_is_read(outcome: dict[str, Any], name: str) -> None:
    assert outcome["told"][name] is None


def test_no_file_takes_long(outcome: dict[str, Any]) -> None:
    """None is above 8 MB."""
    assert max(outcome["seconds"].values()) < SAFETY / 10


def test_no_file_takes_more_memory_than_it_holds(outcome: dict[str, Any]) -> None:
    """The largest is 8 MB; one alone claims 8 GB of zeros, another unpacks to 300 MB."""
    assert outcome["kilobytes"] < 100_000
