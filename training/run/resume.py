"""What decides a run, and which state a command may resume from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...common.text import shown
from ..config import TrainConfig
from ..errors import ConfigError
from ..hosts.sd_scripts.flags import HOST_FLAGS
from . import metrics
from .folder import RunFolder
from .metadata import CAPTIONS, PRIVATE
from .metrics import NOT_FACTS
from .states import FACTS, DamagedStateError, cannot_resume, check_state, read_state

Record = dict[str, Any]

# May differ between a run and its continuation: changes how it is done, not what is learnt.
FREE_TO_CHANGE = {
    "output_dir",
    "output_name",
    "dry_run",
    "resume",
    "save_every_n_steps",
    "keep_last_n",
    "sample_every_n_steps",
    "validate_every_n_steps",
    "sample_count",
    "sample_steps",
    "sample_cfg",
    "tokenizer_cache_dir",
    "host",
    "sd_scripts",
    "cache_latents_to_disk",
    "log_with",
    "anonymous",
    "logging_dir",
    "log_prefix",
    "log_tracker_name",
    "wandb_run_name",
    "save_precision",
    "save_every_n_epochs",
    "sample_every_n_epochs",
    "sample_at_first",
    "sample_prompts",
    "gradient_checkpointing",
    "deterministic",
    "max_data_loader_n_workers",
}
# How a step's pairs are split; only their number decides what is learnt.
SPLIT = ("num_processes", "train_batch_size", "gradient_accumulation_steps")
# Entries of a record that are no flags of ours.
OTHERS = {
    "dataset": "images, masks or captions have changed",
    "base_hash": "the base model is another file",
}


def make_record(config: TrainConfig, dataset: str, num_processes: int) -> Record:
    """Configuration, resolved recipe, and what else decides the result; `dataset`: fingerprint.

    With --anonymous without paths: what they lead to is known by its hashes. The session adds
    `base_hash` as soon as the base model is loaded.
    """
    more = {"dataset": dataset, "num_processes": num_processes}
    values = json.loads(config.to_json())
    if config.anonymous:
        values = {name: value for name, value in values.items() if not _is_private(config, name)}
    return {**values, **asdict(config.resolved_recipe()), **more}


def _is_private(config: TrainConfig, name: str) -> bool:
    """Whether a flag holds a path, or what its owner says about himself."""
    if name in config.host_options:
        return isinstance(config.host_options[name], str)
    return isinstance(getattr(config, name), Path) or name in (*PRIVATE, *CAPTIONS)


def state_to_continue(config: TrainConfig, record: Record) -> Path | None:
    """The state to resume from: `--resume`, or the newest in the output folder.

    Raises ConfigError if another command or dataset made it, if it is damaged, or if nothing is
    left to train.
    """
    folder = RunFolder(config.output_dir, config.output_name)
    newest = folder.latest_state()
    state = config.resume or newest
    if state is None:
        return None
    own = Path(os.path.realpath(state)).is_relative_to(os.path.realpath(config.output_dir))
    if newest is not None and not own:
        raise ConfigError(
            f"--resume {state}: --output_dir {config.output_dir} holds a run of its own, saved in "
            f"{newest}. Leave out --resume to resume that, or choose another --output_dir."
        )
    has_ema = config.ema_decay > 0
    try:
        check_same_run(config, state, record)
        check_state(state, has_ema)
    except DamagedStateError as error:
        raise cannot_resume(state, error, has_ema) from error
    step = read_state(state)[0]
    metrics.lines_until(folder.metrics, step)
    # A run's own last state is there to show and save what it has learnt.
    if step >= config.max_train_steps and not own:
        raise ConfigError(
            f"--resume {state}: that is step {step} of --max_train_steps "
            f"{config.max_train_steps}, nothing is left to train. Give an earlier state."
        )
    return state


def check_same_run(config: TrainConfig, state: Path, record: Record) -> None:
    """Raise ConfigError unless this command may resume the run that saved `state`."""
    free = FREE_TO_CHANGE | ({"learning_rate"} if config.resume else set())
    previous = read_state(state)[1]
    if "seed" not in previous:  # of another kind: there is nothing to compare
        raise DamagedStateError(f"{state / FACTS}: has no record of a training.")
    changed = differences(previous, record, free)
    if changed:
        raise ConfigError(
            f"{state} is of a run of another command ({'; '.join(changed)}). Choose another "
            "--output_dir for a new run, or give the same command and data to resume that one."
        )


def differences(previous: Mapping[str, Any], record: Record, free: set[str]) -> list[str]:
    """What is not the same and not `free` to change, in words.

    A host's flag is in a record only where it was given. Any other name that one of the two lacks
    is unknown to the version that wrote it, or not known yet.
    """
    pairs = _pairs_of_a_step(previous)
    if pairs is not None and pairs == _pairs_of_a_step(record):
        free = {*free, *SPLIT}
    given = (previous.keys() | record.keys()) & HOST_FLAGS
    names = sorted((previous.keys() & record.keys()) | given)
    return [
        OTHERS.get(name, f"--{name} was {shown(previous.get(name))}, is {shown(record.get(name))}")
        for name in names
        if name not in free and not name.startswith("metadata_")
        if previous.get(name) != record.get(name)
    ]


def _pairs_of_a_step(record: Mapping[str, Any]) -> int | None:
    """The global batch; None where a record does not say it."""
    try:
        return math.prod(int(record[name]) for name in SPLIT)
    except NOT_FACTS:
        return None
