"""Measure on real pairs whether synthetic pairs help, and how good they are.

Run as a script, `python evaluation/evaluate.py --help`, or as `siamese-evaluate`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
    import bootstrap

    __package__ = bootstrap.enter_package(__file__)

from ..common.arguments import FAILED, USER_ERROR, log_to_terminal, say, unexpected
from ..common.files import describe_error
from ..common.pairs import DatasetError
from ..common.text import visible
from .command_line import RUNS, Request, parse_args
from .errors import FeaturesError, MeasuringError, OutputError
from .inputs import read_inputs

STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, then measure. Exit code 0: report written; 1: failed; 2: bad input; 130: stopped."""
    log_to_terminal()
    try:
        page = evaluate(parse_args(arguments))
    except (DatasetError, OutputError, FeaturesError) as error:
        say(error)
        return USER_ERROR
    except MeasuringError as error:
        say(error)
        return FAILED
    except KeyboardInterrupt:
        print("stopped; give the same command with --resume to go on", file=sys.stderr)
        return STOPPED
    except Exception as error:
        return unexpected(error)
    print(visible(str(page)))
    return 0


def evaluate(request: Request) -> Path:
    """Check every file before anything large is loaded or written; the path of report.html."""
    request.check_output()
    inputs = read_inputs(request)
    # MONAI and its like take seconds to import: only once the data are known to be good.
    from .run import run

    try:
        with request.lock.hold():
            return run(request, inputs)
    except OSError as error:
        raise MeasuringError(
            f"{describe_error(error)}. Finished trainings are kept in {request.out / RUNS}. Make "
            "room, or check the path and its permissions, and give the same command with --resume."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
