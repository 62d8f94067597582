"""Everything an evaluation reads, checked before anything large is loaded or written."""

from __future__ import annotations

from dataclasses import dataclass

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
    train, test, *synthetic = (
        load_pairs(name, tuple(checked[name]), resolution) for name in request.files
    )
    _check_size(request, train)
    notes = check_leaks(train, test, synthetic)
    return Inputs(train, test, tuple(synthetic), tuple(notes))


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
