"""The folder of one resumable state: its files, and what to do where one of them is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.operations import recursively_apply
from torch import Tensor

from ...common.files import system_error
from ...common.memory import free_memory
from ...common.pickles import check_pickle
from ...common.text import shown
from ...common.text_files import check_regular, parse_json, read_text
from ...models.weights import (
    UNREADABLE,
    StateDict,
    WeightsError,
    first_line,
    read_shapes,
    read_strings,
    write_weights,
)
from ..errors import ConfigError
from ..options import MOST_STEPS
from .metrics import NOT_FACTS

WEIGHTS = "weights.safetensors"  # a bundle
EMA = "ema.safetensors"  # a bundle too, of the weights' moving average
OPTIMIZER = "optimizer.pt"
FACTS = "state.json"  # step, and the record of the run
STEP_DIGITS = 8  # as sd-scripts names its files
STEP_PATTERN = "step" + STEP_DIGITS * "[0-9]"


class DamagedStateError(ConfigError):
    """A file of a state is missing, damaged or cut short."""


@dataclass(frozen=True)
class State:
    """What a state holds beside its facts, in memory.

    weights, averages: bundles, of what is trained and of its EMA. optimizer: what
    GradientUpdate.state gives.
    """

    step: int
    weights: StateDict
    averages: StateDict | None
    optimizer: dict[str, Any]
    metadata: dict[str, str]

    def can_be_copied(self) -> bool:
        """Whether memory has room for a copy, and as much again: writing takes some too."""
        sizes: list[int] = []
        self._apply(lambda tensor: sizes.append(tensor.numel() * tensor.element_size()))
        return 2 * sum(sizes) <= free_memory()

    def copy(self) -> State:
        """The same on the CPU, which no training step changes."""
        return self._apply(lambda tensor: tensor.detach().to("cpu", copy=True))

    def _apply(self, function: Callable[[Tensor], Any]) -> State:
        parts = (self.weights, self.averages, self.optimizer)
        weights, averages, optimizer = recursively_apply(function, parts)
        return State(self.step, weights, averages, optimizer, self.metadata)

    def write(self, folder: Path) -> None:
        """Raises OSError where the system refuses, as on a full disk."""
        write_weights(folder / WEIGHTS, self.weights, self.metadata)
        if self.averages is not None:
            write_weights(folder / EMA, self.averages, self.metadata)
        write_optimizer(folder, self.optimizer)


def write_facts(state: Path, step: int, record: Mapping[str, Any]) -> None:
    facts = {"step": step, "record": record}
    (state / FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")


def read_state(state: Path) -> tuple[int, dict[str, Any]]:
    """Step of a state folder, and the record of its run. Raises DamagedStateError."""
    try:
        facts = parse_json(read_text(state / FACTS))
        if "record" not in facts:  # of the first versions
            config = state.parent.parent / "config.json"
            facts["record"] = parse_json(read_text(config))
        step, record = facts["step"], dict(facts["record"])
        _check_step(state, step, record)
        return step, record
    except (OSError, *NOT_FACTS) as error:
        raise DamagedStateError(
            f"{state}: not a training state, or a damaged one ({FACTS}: {error}). Expected a "
            "folder such as OUTPUT_DIR/state/step00000500."
        ) from error


def _check_step(state: Path, step: Any, record: Mapping[str, Any]) -> None:
    """Raise ValueError for what no run comes to, or is not what the folder is called by."""
    last = record.get("max_train_steps", MOST_STEPS)
    if type(step) is not int or not 1 <= step <= last:
        raise ValueError(f"step is {shown(step)}; expected a whole number from 1 to {shown(last)}")
    if fnmatchcase(state.name, STEP_PATTERN) and int(state.name[-STEP_DIGITS:]) != step:
        raise ValueError(f"step is {step}, which is not the folder's")


def write_optimizer(state: Path, saved: Mapping[str, Any]) -> None:
    """Raises OSError where the system refuses, as on a full disk."""
    path = state / OPTIMIZER
    try:
        with path.open("wb") as file:
            torch.save(saved, file)
    except RuntimeError as error:
        raise system_error(error, path) or error from error


def read_optimizer(state: Path, mmap: bool = False) -> dict[str, Any]:
    """What GradientUpdate has saved, with `mmap` without its values. Raises DamagedStateError."""
    path = state / OPTIMIZER
    try:
        check_regular(path)
        check_pickle(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap))
    except UNREADABLE as error:
        size = f"{path.stat().st_size} bytes; " if path.is_file() else ""
        raise DamagedStateError(
            f"{path}: damaged or cut short ({size}{first_line(error)})."
        ) from error


def check_state(state: Path, has_ema: bool) -> None:
    """Raise DamagedStateError naming a file that is missing, cut short or of another kind.

    Values of tensors are not read: of the largest state this takes no time.
    """
    step, _ = read_state(state)
    for name in [WEIGHTS, *([EMA] if has_ema else [])]:
        path = state / name
        if not path.is_file():
            raise DamagedStateError(f"{path}: missing.")
        try:
            read_shapes(path)
            found = read_strings(path).get("siamese.step")
        except WeightsError as error:
            raise DamagedStateError(str(error)) from error
        if found not in (None, str(step)):
            raise DamagedStateError(f"{path}: of step {shown(found)}, in a state of step {step}.")
    read_optimizer(state, mmap=True)


def check_given_state(state: Path, has_ema: bool) -> None:
    """Raise ConfigError unless the folder given as --resume is a state that can be read."""
    try:
        read_state(state)
    except DamagedStateError as error:
        raise cannot_resume(state, error, has_ema) from error


def cannot_resume(state: Path, reason: Exception, has_ema: bool) -> ConfigError:
    """The error for a damaged state: what is wrong, and the next older state that is whole."""
    if not fnmatchcase(state.name, STEP_PATTERN):
        return ConfigError(f"--resume {state}: {reason}")
    older = [path for path in state.parent.glob(STEP_PATTERN) if path.name < state.name]
    for candidate in sorted(older, reverse=True):
        try:
            check_state(candidate, has_ema)
        except DamagedStateError:
            continue
        advice = f"The next older state is whole: give --resume {candidate} to resume from it."
        break
    else:
        advice = "There is no older state: choose another --output_dir to start over."
    return ConfigError(f"{state}: cannot be resumed from. {reason} {advice}")
