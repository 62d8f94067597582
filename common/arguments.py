"""What the scripts of this project do alike at the command line: one line for each error."""

from __future__ import annotations

import argparse
import errno
import logging
import math
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NoReturn

from .bootstrap import missing_package
from .files import describe_error
from .processes import is_first_on_machine
from .text import shortened, shown, visible

USER_ERROR = 2
FAILED = 1
LONGEST_MESSAGE = 2000
ISSUES = "https://github.com/siamese-diffusion/ComfyUI-Siamese-Diffusion/issues"
# What only shows while something is written: no fault of the command that was given.
WHILE_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# How torch tells that a device or the machine has no memory left.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
INTERRUPTED = 130  # what shells call a program that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where help is, instead of printing all flags."""

    def error(self, message: str) -> NoReturn:
        # Several processes have the same arguments: one says so.
        said = f"error: {shortened(message, LONGEST_MESSAGE)}; see --help\n"
        self.exit(USER_ERROR, said if is_first_on_machine() else None)


def say(error: object) -> None:
    """Print an error's message, with what a terminal would take for commands as escapes."""
    print(f"error: {visible(str(error))}", file=sys.stderr)


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an argparse option: a whole number from `low`, at least 0, to `high`."""

    def read(text: str) -> int:
        digits = text if text.isdecimal() and len(text) <= len(str(high)) else ""
        if not digits or not low <= int(digits) <= high:
            raise argparse.ArgumentTypeError(
                f"{shown(text)}: expected a whole number from {low} to {high}"
            )
        return int(digits)

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """The type of an argparse option: a number from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{shown(text)}: expected a number from {low:g} to {high:g}"
            )
        return value

    return read


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def log_to_terminal(level: int = logging.INFO) -> None:
    """What is logged is printed as it is, but for what a terminal would take for commands."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def interrupted() -> int:
    """Say so in one line instead of a stack trace; the exit code. Another Ctrl-C ends at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print("stopped by Ctrl-C", file=sys.stderr)
    return INTERRUPTED


def unexpected(error: Exception) -> int:
    """Say in one line what no check has foreseen; the exit code.

    What the system refuses (full disk, read-only folder, file deleted) is named with its file, and
    so is a machine that has no memory left; a package that is not installed by its name. Anything
    else is our bug: the line names a file with the stack trace, and where to report it.
    """
    if message := missing_package(error):
        print(f"error: {message}", file=sys.stderr)
        return USER_ERROR
    if isinstance(error, OSError) and error.errno is not None:
        say(
            f"{describe_error(error)}. Make room, or check the path and its permissions, and give "
            "the same command again."
        )
        return FAILED if error.errno in WHILE_WRITING else USER_ERROR
    said = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or any(phrase in said for phrase in OUT_OF_MEMORY):
        say(
            f"not enough memory ({shortened(said) or type(error).__name__}). End other programs, "
            "or use a machine with more."
        )
        return FAILED
    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="siamese-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(trace)
        place = f"the trace is in {file.name}"
    except OSError:
        print(trace, file=sys.stderr)
        place = "the trace is above"
    print(
        f"error: a bug in this program ({type(error).__name__}); {place}. Report it with that at "
        f"{ISSUES}",
        file=sys.stderr,
    )
    return FAILED
