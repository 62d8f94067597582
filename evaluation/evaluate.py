"""Measure on real pairs whether synthetic pairs help, and how good they are.

Run as a script, `python evaluation/evaluate.py --help`, or as `siamese-evaluate`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

if not __package__:
    import bootstrap

    __package__ = bootstrap.enter_package()

from ..common.pairs import DatasetError

USER_ERROR = 2
PACKAGES = ("monai", "segmentation_models_pytorch", "torchmetrics", "prdc", "fastrad", "jinja2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, then measure. Exit code 0: report written; 2: bad input; 130: stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        from .command_line import parse_args
        from .features import FeaturesError
        from .run import OutputError, run
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        install = "pip install 'siamese-diffusion[evaluate]'"
        print(f"error: {error.name} is missing; install it with {install}", file=sys.stderr)
        return USER_ERROR
    try:
        page = run(parse_args(arguments))
    except (DatasetError, FeaturesError, OutputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped; give the same command with --resume to go on", file=sys.stderr)
        return 130
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
