"""Measure on real pairs whether synthetic pairs help, and how good they are.

Run as a script, `python evaluation/evaluate.py --help`, or as `siamese-evaluate`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
    import bootstrap

    __package__ = bootstrap.enter_package(__file__)

from ..common.arguments import USER_ERROR, say, unexpected
from ..common.pairs import DatasetError
from .command_line import Request, parse_args
from .errors import FeaturesError, OutputError
from .inputs import read_inputs

STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, then measure. Exit code 0: report written; 2: bad input; 130: stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        page = evaluate(parse_args(arguments))
    except (DatasetError, OutputError, FeaturesError) as error:
        say(error)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped; give the same command with --resume to go on", file=sys.stderr)
        return STOPPED
    except Exception as error:
        return unexpected(error)
    print(page)
    return 0


def evaluate(request: Request) -> Path:
    """Check every file before anything large is loaded or written; the path of report.html."""
    request.check_output()
    inputs = read_inputs(request)
    # MONAI and its like take seconds to import: only once the data are known to be good.
    from .run import run

    return run(request, inputs)


if __name__ == "__main__":
    sys.exit(main())
