"""Make image-mask pairs from masks and Siamese-Diffusion weights.

Run as a script, `python synthesis/synthesize.py --help`, or as `siamese-synthesize`.
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

from ..common.arguments import FAILED, INTERRUPTED, USER_ERROR, unexpected
from ..common.pairs import DatasetError
from ..models.weights import WeightsError
from ..training.errors import ConfigError
from .command_line import parse_args
from .errors import SynthesisError

# Packages, and the extra that installs them.
PACKAGES = {"ray": "cluster", "pyarrow": "cluster", "kornia": "train", "diffusers": "train"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, then make what is missing.

    Exit code 0: every pair is there; 1: some are missing or damaged; 2: bad input; 130: stopped.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    request = parse_args(arguments)
    try:
        from .run import check, run  # seconds to import: only once the flags are known to be good

        return 0 if (check if request.check else run)(request) else FAILED
    except (SynthesisError, DatasetError, WeightsError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            return unexpected(error)
        install = f"pip install 'siamese-diffusion[{PACKAGES[error.name]}]'"
        print(f"error: {error.name} is missing; install it with {install}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped; give the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return unexpected(error)


if __name__ == "__main__":
    sys.exit(main())
