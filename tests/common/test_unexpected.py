"""What no check has foreseen ends in one line, whoever has caused it."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

import pytest
from siamese_diffusion.common.arguments import ISSUES, unexpected
from support.paths import ROOT
from support.processes import run


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG])
def test_what_the_system_refuses(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert unexpected(OSError(number, os.strerror(number), "runs/x")) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: runs/x: {os.strerror(number)}. ")


@pytest.mark.parametrize(
    "script",
    ["training/train_siamese", "training/merge_bundle", "training/prepare_data",
     "evaluation/evaluate"],
)  # fmt: skip
def test_a_script_without_its_packages_says_how_to_install_them(script: str) -> None:
    without_packages = [sys.executable, "-S"]
    found = run([*without_packages, ROOT / f"{script}.py", "--help"])
    assert found.returncode != 0
    [line] = found.stderr.splitlines()
    assert re.match(r"error: the package (torch|numpy) is missing\. .*pip install", line)


def test_a_package_that_a_later_import_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert unexpected(ModuleNotFoundError("", name="nowhere.part")) == 2
    assert "error: the package nowhere is missing. " in capsys.readouterr().err


def test_a_part_of_a_package_that_is_there_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert unexpected(ModuleNotFoundError("", name="json.nowhere")) == 1
    found = re.search(r"the trace is in (.*\.txt)\. Report", capsys.readouterr().err)
    assert found is not None
    Path(found[1]).unlink()


def test_a_bug_names_its_trace_and_where_to_report_it(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        {"key": 1}["no such key"]
    except KeyError as error:
        assert unexpected(error) == 1
    [line] = capsys.readouterr().err.splitlines()
    found = re.search(r"the trace is in (.*\.txt)\. Report", line)
    assert found is not None and line.endswith(ISSUES)
    assert "no such key" in Path(found[1]).read_text("utf-8")
    Path(found[1]).unlink()
    repository = re.search(r'Repository = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert repository is not None and f"{repository[1]}/issues" == ISSUES
