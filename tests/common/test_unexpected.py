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


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EIO, 1), (errno.EROFS, 2), (errno.EACCES, 2),
     (errno.ENAMETOOLONG, 2)],
)  # fmt: skip
def test_what_the_system_refuses(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """What shows only while writing is no fault of the command."""
    assert unexpected(OSError(number, os.strerror(number), "runs/x")) == code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: runs/x: {os.strerror(number)}. ")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
    ],
)
def test_no_memory_is_no_bug(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert unexpected(error) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: not enough memory (")


def scripts() -> list[str]:
    """Those that can be run by their path."""
    rooms = ("training", "evaluation", "synthesis")
    found = [path for room in rooms for path in (ROOT / room).glob("*.py")]
    return sorted(
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in found
        if "bootstrap.enter_package(__file__)" in path.read_text("utf-8")
    )


def test_every_command_is_a_script() -> None:
    """Those that pyproject.toml installs, by the module that each begins."""
    code = (ROOT / "common/commands.py").read_text("utf-8")
    modules = re.findall(r'_command\("([\w.]+)"\)', code)
    assert sorted(module.replace(".", "/") for module in modules) == scripts()


@pytest.mark.parametrize("script", scripts())
def test_a_script_without_its_packages_says_how_to_install_them(script: str) -> None:
    without_packages = [sys.executable, "-S"]
    found = run([*without_packages, ROOT / f"{script}.py", "--help"])
    assert found.returncode != 0
    [line] = found.stderr.splitlines()
    assert re.match(r"error: the package (torch|numpy|psutil) is missing\. .*pip install", line)


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
