"""Fine-tune Stable Diffusion into a Siamese-Diffusion model.

Run as a script, `python training/train_siamese.py --help`, or with `accelerate launch`.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    # Run as a script: make the checkout, whatever its folder is called, the package it is.
    root = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "siamese_diffusion", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    if spec is None or spec.loader is None:
        raise SystemExit(f"{root}: incomplete checkout, __init__.py is missing.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["siamese_diffusion"] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(Path(__file__).resolve().parent))
    __package__ = "siamese_diffusion.training"

from ..models.weights import WeightsError
from .command_line import parse_args
from .errors import ConfigError, NotFiniteError
from .options import TrainConfig
from .pairs import DatasetError, check_pairs, read_pairs

USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, then train. Exit code 0: done, or stopped cleanly; 1: failed; 2: bad input."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        run(parse_args(arguments))
    except (ConfigError, DatasetError, WeightsError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except NotFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(config: TrainConfig) -> None:
    """Check every input before anything large is loaded or written."""
    pairs = read_pairs(config.train_data)
    check_pairs(config.train_data, pairs)
    # diffusers and transformers take seconds to import: only once the data is known to be good.
    from .session import start

    start(config, pairs)


if __name__ == "__main__":
    sys.exit(main())
