"""What the scripts of this project do alike at the command line: one line for each error."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import NoReturn

from .processes import is_first_on_machine

USER_ERROR = 2
INTERRUPTED = 130  # what shells call a program that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where help is, instead of printing all flags."""

    def error(self, message: str) -> NoReturn:
        # Several processes have the same arguments: one says so.
        self.exit(USER_ERROR, f"error: {message}; see --help\n" if is_first_on_machine() else None)


def interrupted() -> int:
    """Say so in one line instead of a stack trace; the exit code. Another Ctrl-C ends at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print("stopped by Ctrl-C", file=sys.stderr)
    return INTERRUPTED
