"""Make image-mask pairs from masks and Siamese-Diffusion weights.

Run as a script, `python synthesis/synthesize.py --help`, or as `siamese-synthesize`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
    import bootstrap

    __package__ = bootstrap.enter_package(__file__)

from ..common.arguments import (
    FAILED,
    INTERRUPTED,
    USER_ERROR,
    log_to_terminal,
    say,
    unexpected,
)
from ..common.pairs import DatasetError
from ..models.weights import WeightsError
from ..training.errors import ConfigError
from .command_line import parse_args
from .errors import StoppedError, SynthesisError

# Packages, and the extra that installs them.
PACKAGES = {"ray": "cluster", "pyarrow": "cluster", "kornia": "train", "diffusers": "train"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, then make what is missing.

    Exit code 0: every pair is there; 1: some are missing or damaged, or the run failed; 2: bad
    input; 130: stopped.
    """
    log_to_terminal()
    try:
        request = parse_args(arguments)
        from .run import check, run  # seconds to import: only once the flags are known to be good

        return 0 if (check if request.check else run)(request) else FAILED
    except StoppedError as error:
        say(error)
        return FAILED
    except (SynthesisError, DatasetError, WeightsError, ConfigError) as error:
        say(error)
        return USER_ERROR
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            return unexpected(error)
        install = f"pip install 'siamese-diffusion[{PACKAGES[error.name]}]'"
        say(f"{error.name} is missing; install it with {install}")
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped; give the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return unexpected(error)


if __name__ == "__main__":
    sys.exit(main())
