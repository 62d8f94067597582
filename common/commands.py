"""The console entries of pyproject.toml; a missing package is named in one line, as by scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from .bootstrap import PACKAGE, explain


def _command(module: str) -> Callable[[], int]:
    def run() -> int:
        sys.excepthook = explain  # imports take seconds, and may fail
        code: int = import_module(f"{PACKAGE}.{module}").main()
        return code

    return run


train = _command("training.train_siamese")
merge = _command("training.merge_bundle")
prepare = _command("training.prepare_data")
evaluate = _command("evaluation.evaluate")
synthesize = _command("synthesis.synthesize")
