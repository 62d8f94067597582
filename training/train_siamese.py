"""Fine-tune Stable Diffusion into a Siamese-Diffusion model.

Run as a script, `python training/train_siamese.py --help`, or with `accelerate launch`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
    import bootstrap

    __package__ = bootstrap.enter_package(__file__)

from ..common.pairs import DatasetError
from ..models.weights import WeightsError
from .command_line import parse_args
from .config import TrainConfig
from .data.dataset import load_dataset
from .errors import ConfigError, TrainingError
from .hosts.choose import choose_host
from .run.folder import RunFolder

log = logging.getLogger(__name__)

USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, then train. Exit code 0: done, or stopped cleanly; 1: failed; 2: bad input."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        run(parse_args(arguments))
    except (ConfigError, DatasetError, WeightsError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(config: TrainConfig) -> None:
    """Check every input before anything large is loaded or written."""
    host = choose_host(config)
    if os.environ.get("RANK", "0") == "0":  # as accelerate's launcher numbers the processes
        log.info("Host: %s", host.name)
    RunFolder(config.output_dir, config.output_name).check()
    config, dataset = load_dataset(config, host.resolve_subsets)
    # diffusers and transformers take seconds to import: only once the data is known to be good.
    from .run.start import start

    start(config, dataset, host)


if __name__ == "__main__":
    sys.exit(main())
