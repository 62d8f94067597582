"""Does training on the synthetic pairs help? Real test pairs, the same segmenter, equal steps.

result = measure_downstream(real_train, real_test, [synthetic], settings)
table = result.table()
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..common.processes import end_with
from .arms import BASELINE, Arm, plan
from .intervals import bootstrap
from .overlap import METRICS, overlap
from .pair_sets import PairSet
from .segmenters import Segmenter, colour_statistics, predict
from .settings import Settings
from .splits import split
from .store import Store, training_key
from .train_segmenter import Training, train

log = logging.getLogger(__name__)

ALL = "all"  # segmenters together
DECIMALS = 6


@dataclass(frozen=True)
class Downstream:
    """What every arm reached on every test image.

    values: arm -> segmenter -> (repetitions, test images, 3), Dice, IoU and HD95. judges: the
    segmenters of the arm "real + augmentation", which the other measures use.
    """

    settings: Settings
    arms: tuple[Arm, ...]
    left_out: tuple[str, ...]
    training: PairSet
    validation: PairSet
    test: PairSet
    values: dict[str, dict[str, np.ndarray]]
    judges: tuple[Segmenter, ...]

    def table(self) -> list[dict[str, Any]]:
        """A row for each arm: means, and the paired differences to real + augmentation."""
        return [self._row(arm) for arm in self.arms]

    def _row(self, arm: Arm) -> dict[str, Any]:
        found, base = self.values[arm.name], self.values[BASELINE]
        row: dict[str, Any] = {
            "arm": arm.name,
            "synthetic_set": arm.synthetic.name if arm.synthetic else None,
            "ratio": arm.ratio,
            "augmented": arm.augment,
            "real_pairs": 0 if arm.synthetic and arm.ratio is None else len(self.training),
            "synthetic_pairs": arm.synthetic_count(len(self.training)),
            "segmenters": {},
        }
        for name in (*found, ALL):
            mine = over_segmenters(found, name)
            row["segmenters"][name] = self._figures(mine, mine - over_segmenters(base, name))
        return row

    def _figures(self, mine: np.ndarray, difference: np.ndarray) -> dict[str, Any]:
        """Of one arm and segmenter; arrays (repetitions, images, metrics)."""
        figures: dict[str, Any] = {}
        for index, metric in enumerate(METRICS):
            values, seed, groups = difference[..., index], self.settings.seed, self.test.groups
            figures[metric] = {
                "mean": float(mine[..., index].mean()),
                "of_each_seed": mine[..., index].mean(1).tolist(),
                "difference": asdict(bootstrap(values, seed)),
                "difference_by_group": asdict(bootstrap(values, seed, groups)) if groups else None,
            }
        return figures


def over_segmenters(values: dict[str, np.ndarray], segmenter: str) -> np.ndarray:
    """One segmenter's values, or the mean of all of them."""
    return np.mean([*values.values()], axis=0) if segmenter == ALL else values[segmenter]


def measure_downstream(
    real_train: PairSet,
    real_test: PairSet,
    synthetic: Sequence[PairSet],
    settings: Settings,
    folder: Path,
    jobs: int = 1,
) -> Downstream:
    """Train every arm and measure it on the test pairs, `jobs` trainings at a time.

    A part of `real_train` is held out, whole groups, to choose each training's best weights; the
    test pairs are looked at once. Finished trainings are kept in `folder` and used again. Raises
    DatasetError when there are too few real pairs to hold any out.
    """
    training, validation = split(real_train, settings.validation_share, settings.seed)
    arms, left_out = plan(len(training), synthetic, settings.ratios)
    runner = _Runner(training, validation, real_test, settings, Store(folder))
    if jobs > 1:
        _train_in_processes(runner, arms, jobs)  # below, all is found finished
    values: dict[str, dict[str, np.ndarray]] = {arm.name: {} for arm in arms}
    parts = [(arm, name) for arm in arms for name in settings.segmenters]
    with logging_redirect_tqdm():
        for arm, name in tqdm(parts, "arms", disable=None):
            numbers = range(settings.seeds)
            before = runner.trainings
            values[arm.name][name] = np.stack([runner.run(arm, name, i) for i in numbers])
            if runner.trainings > before:
                dice = values[arm.name][name][..., 0].mean()
                log.info("%s, %s: Dice %.3f on the test images", arm.name, name, dice)
    judges = tuple(runner.judges)
    return Downstream(
        settings, tuple(arms), tuple(left_out), training, validation, real_test, values, judges
    )


def _train_in_processes(runner: _Runner, arms: Sequence[Arm], jobs: int) -> None:
    """Every training that is not finished yet; its figures are left in the runner's store."""
    settings = runner.settings
    trainings = [
        (index, name, number)
        for number in range(settings.seeds)
        for index in range(len(arms))
        for name in settings.segmenters
    ]
    # CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, context, _start_worker, (runner, arms, threads)) as pool:
        futures = [pool.submit(_train_in_worker, *training) for training in trainings]
        try:
            for future in tqdm(as_completed(futures), "trainings", len(futures), disable=None):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_worker: tuple[_Runner, Sequence[Arm]]


def _start_worker(runner: _Runner, arms: Sequence[Arm], threads: int) -> None:
    global _worker  # noqa: PLW0603 - the pairs travel once for each process, not for each training
    _worker = (runner, arms)
    torch.set_num_threads(threads)
    end_with(multiprocessing.parent_process())


def _train_in_worker(arm: int, segmenter: str, number: int) -> None:
    runner, arms = _worker
    runner.run(arms[arm], segmenter, number)
    runner.judges.clear()


class _Runner:
    """Trains, measures and remembers."""

    def __init__(
        self,
        training: PairSet,
        validation: PairSet,
        test: PairSet,
        settings: Settings,
        store: Store,
    ) -> None:
        self.training, self.validation, self.test = training, validation, test
        self.settings, self.store = settings, store
        self.statistics = colour_statistics(training.images)
        self.judges: list[Segmenter] = []
        self.trainings = 0  # done by this run, not an earlier one

    def run(self, arm: Arm, segmenter: str, number: int) -> np.ndarray:
        """Values (test images, 3) of one training, done now or earlier."""
        pool = arm.pool(self.training, self.settings.seed, number)
        job = Training(segmenter, pool, self.validation, arm.augment, number)
        key = training_key(job, self.training, self.settings)
        is_judge = arm.name == BASELINE
        done = self.store.figures(key, self.test)
        if done and (not is_judge or self._load_judge(segmenter, key)):
            return done["values"]
        self.trainings += 1
        trained = train(job, self.statistics, self.settings, f"{arm.name}, {segmenter}, {number}")
        if is_judge:
            self.judges.append(trained.segmenter)
            self.store.write_weights(key, trained.segmenter)
        values = overlap(predict(trained.segmenter, self.test.images), self.test.masks)
        values = values.round(DECIMALS)  # as they are read again by --resume
        content = {
            "arm": arm.name,
            "segmenter": segmenter,
            "number": number,
            "best_step": trained.best_step,
            "validation_dice": trained.validation_dice,
            "seconds": round(trained.seconds, 2),
            "values": values,
        }
        self.store.write_figures(key, self.test, content)
        return values

    def _load_judge(self, name: str, key: str) -> bool:
        segmenter = Segmenter(name, *self.statistics).to(self.settings.torch_device())
        if not self.store.load_weights(key, segmenter):
            return False
        self.judges.append(segmenter)
        return True
