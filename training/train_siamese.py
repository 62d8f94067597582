"""Fine-tune Stable Diffusion into a Siamese-Diffusion model.

Run as a script, `python training/train_siamese.py --help`, or with `accelerate launch`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
    import bootstrap

    __package__ = bootstrap.enter_package(__file__)

from ..common.arguments import USER_ERROR, interrupted, log_to_terminal, say, unexpected
from ..common.pairs import DatasetError
from ..common.processes import is_first_on_machine, is_first_process
from ..models.weights import WeightsError
from .command_line import parse_args
from .config import TrainConfig
from .data.dataset import load_dataset
from .errors import CacheError, ConfigError, NotFiniteError, TrainingError
from .hosts.choose import choose_host
from .run.folder import RunFolder

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, then train.

    Exit code 0: done, or stopped cleanly; 1: failed; 2: bad input; 130: stopped at once by Ctrl-C.
    """
    log_to_terminal()
    logging.getLogger().setLevel(logging.INFO if is_first_process() else logging.ERROR)
    try:
        run(parse_args(arguments))
    except (ConfigError, DatasetError, WeightsError) as error:
        _report(error)
        return USER_ERROR
    except NotFiniteError as error:
        _report(error)
        return 1
    except (CacheError, TrainingError) as error:  # of this process, and maybe of no other
        say(error)
        return USER_ERROR if isinstance(error, CacheError) else 1
    except KeyboardInterrupt:
        return interrupted()
    except Exception as error:
        return unexpected(error)
    return 0


def _report(error: Exception) -> None:
    """Print an error that all processes run into alike, once on each machine."""
    if is_first_on_machine():
        say(error)


def run(config: TrainConfig) -> None:
    """Check the flags, then the data; what is large is loaded last."""
    host = choose_host(config)
    log.info("Host: %s", host.name)
    RunFolder(config.output_dir, config.output_name).check()
    # Seconds to import: only once the flags are known to be ones.
    from .run.first_process import from_first
    from .run.peers import Peers
    from .run.start import check, start

    accelerator = check(config, host)
    # Here all processes have found each other: none checks the folder while the first holds it.
    with Peers(accelerator), _only_training(config):
        config, dataset = from_first(lambda: load_dataset(config, host.resolve_subsets))
        start(config, dataset, host, accelerator)


@contextmanager
def _only_training(config: TrainConfig) -> Iterator[None]:
    """Keep other trainings out of the output folder, whatever number of processes this one has.

    A dry run only looks. Raises ConfigError where one is running, or has finished meanwhile.
    """
    folder = RunFolder(config.output_dir, config.output_name)
    if not is_first_process():
        yield
    elif config.dry_run:
        folder.lock.check()
        yield
    else:
        with folder.lock.hold():
            folder.check()
            yield


if __name__ == "__main__":
    sys.exit(main())
