"""What the scripts of this project do alike at the command line: one line for each error."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import traceback
from typing import NoReturn

from .bootstrap import missing_package
from .processes import is_first_on_machine
from .text import shortened, visible

USER_ERROR = 2
FAILED = 1
LONGEST_MESSAGE = 2000
ISSUES = "https://github.com/siamese-diffusion/ComfyUI-Siamese-Diffusion/issues"
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


def interrupted() -> int:
    """Say so in one line instead of a stack trace; the exit code. Another Ctrl-C ends at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print("stopped by Ctrl-C", file=sys.stderr)
    return INTERRUPTED


def unexpected(error: Exception) -> int:
    """Say in one line what no check has foreseen; the exit code.

    What the system refuses (full disk, read-only folder, file deleted) is named with its file, and
    a package that is not installed by its name. Anything else is our bug: the line names a file
    with the stack trace, and where to report it.
    """
    if message := missing_package(error):
        print(f"error: {message}", file=sys.stderr)
        return USER_ERROR
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        say(
            f"{where}{error.strerror}. Make room, or check the path and its permissions, and give "
            "the same command again."
        )
        return USER_ERROR
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
