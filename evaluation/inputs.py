"""Everything an evaluation reads, checked before anything large is loaded or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..common.memory import free_memory
from ..common.pairs import DatasetError
from .command_line import Request
from .leaks import check_leaks
from .pair_sets import PairSet, check_files, load_pairs
from .settings import default_resolution

FEWEST_PAIRS, FEWEST_GROUPS = 6, 2


@dataclass(frozen=True)
class Inputs:
    """All pairs of an evaluation, at one size; notes belong in the report."""

    train: PairSet
    test: PairSet
    synthetic: tuple[PairSet, ...]
    notes: tuple[str, ...]

    @property
    def resolution(self) -> int:
        return int(self.train.images.shape[1])


def read_inputs(request: Request) -> Inputs:
    """Open every file. Raises DatasetError with all that is wrong, or with what leaks."""
    checked = check_files(request.files)
    largest = max(max(info.size) for info in checked["real_train"].values())
    resolution = request.resolution or default_resolution(largest, request.quick)
    _check_memory([len(pairs) for pairs in checked.values()], resolution, request.jobs)
    train, test, *synthetic = (
        load_pairs(name, tuple(checked[name]), resolution) for name in request.files
    )
    _check_size(request, train)
    notes = check_leaks(train, test, synthetic)
    return Inputs(train, test, tuple(synthetic), tuple(notes))


def _check_memory(counts: Sequence[int], resolution: int, jobs: int) -> None:
    """Raise DatasetError where the pairs do not fit into memory.

    A pair takes three bytes a pixel for its image and one for its mask. A set is there twice while
    it is put together, and each of several trainings at a time has all sets for itself.
    """
    copies = 1 + (jobs if jobs > 1 else 0)
    needed = 4 * resolution**2 * (copies * sum(counts) + max(counts))
    free = free_memory()
    if needed > free:
        at_a_time, fewer = (f" with --jobs {jobs}", "fewer --jobs, ") if jobs > 1 else ("", "")
        raise DatasetError(
            "all pairs together",
            [
                f"{sum(counts)} pairs at {resolution} x {resolution} pixels need "
                f"{needed / 1e9:.1f} GB of memory{at_a_time}; {free / 1e9:.1f} GB are free. Choose "
                f"a lower --resolution, {fewer}or lists of fewer synthetic pairs: no arm but 'NAME "
                "only' trains on more than the largest of --ratios for each real one"
            ],
        )


def _check_size(request: Request, train: PairSet) -> None:
    """Raise DatasetError where no validation pairs can be held out."""
    groups = len(set(train.units))
    if groups < FEWEST_GROUPS or len(train) < FEWEST_PAIRS:
        what = "groups" if train.groups else "different images"
        raise DatasetError(
            request.real_train,
            [
                f"{len(train)} pairs of {groups} {what}; at least {FEWEST_PAIRS} pairs of "
                f"{FEWEST_GROUPS} {what} are needed to hold some out for validation"
            ],
        )
