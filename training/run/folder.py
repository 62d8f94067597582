"""What a run leaves on disk: weight files and resumable states, each complete or not there."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Any

from ...common.files import replacing, stands_in_for, sync, sync_tree
from ...common.folder_lock import FolderLock
from ...common.text_files import parse_json, read_text
from ..data.cache import RUN_TEXTS
from ..errors import ConfigError
from . import metrics
from .metrics import NOT_FACTS
from .states import STEP_DIGITS, STEP_PATTERN, write_facts

LONGEST_PID = 1 << 22
LOCK = ".training.lock"

log = logging.getLogger(__name__)


class RunFolder:
    """The files of one run: names as sd-scripts gives them, states in a folder of their own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.config = folder / "config.json"
        self.metrics = folder / "metrics.jsonl"
        self.losses = folder / "losses.png"
        self.states = folder / "state"
        self.lock = FolderLock(folder, LOCK, "--output_dir", "training", ConfigError)

    def check(self) -> None:
        """Raise ConfigError unless this run can be written here; nothing is written yet."""
        places = (self.folder, *self.folder.absolute().parents)
        place = next(path for path in places if os.access(path, os.F_OK))
        if not place.is_dir():
            raise ConfigError(f"--output_dir {self.folder}: {place} is a file. Give a folder.")
        if not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(
                f"--output_dir {self.folder}: {place} cannot be written to. Give another folder, "
                "or change its permissions."
            )
        # The longest name is a temporary one; all usual file systems take 255 bytes.
        longest = len(os.fsencode(f".{self.weights(0).name}.{LONGEST_PID}.tmp"))
        if longest > 255:
            bytes_ = len(os.fsencode(self.name))
            raise ConfigError(
                f"--output_name has {bytes_} bytes; at most {bytes_ - longest + 255} leave room "
                "for step and ending in a file's name. Give a shorter one."
            )
        if self.weights().is_file():
            raise ConfigError(
                f"--output_dir: {self.weights()} exists, that run is finished. Choose another "
                "--output_dir."
            )
        self._check_places()
        if not self.config.is_file():
            return
        name = self._recorded_name()
        if name != self.name:
            raise ConfigError(
                f"--output_name is {self.name!r}, but {self.config} is of a run with the name "
                f"{name!r}. Choose another --output_dir, or give that name to resume that run."
            )

    def _check_places(self) -> None:
        """Raise ConfigError for what only shows while training: a pipe would be waited for."""
        files = (self.config, self.metrics, self.losses, self.weights())
        for path in (self.states, self.preview(0).parent, *files):
            kind, there = ("file", path.is_file()) if path in files else ("folder", path.is_dir())
            if os.path.lexists(path) and not there:
                raise ConfigError(
                    f"--output_dir: {path} is no {kind}, which a run has there. Move it away, or "
                    "choose another --output_dir."
                )

    def _recorded_name(self) -> str:
        """The name in config.json. Raises ConfigError where the file is damaged."""
        try:
            return str(parse_json(read_text(self.config))["output_name"])
        except (OSError, *NOT_FACTS) as error:
            raise ConfigError(
                f"{self.config}: damaged ({error}). It says which run this folder holds. If it is "
                "the run of this command, delete the file and give the command again: states keep "
                "a record of their own, and the file is written again."
            ) from error

    def begin(self, record: Mapping[str, Any], step: int) -> None:
        """Make the folder ready for a run that resumes after `step`, and write config.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        files = [*self.complete_states(), *self.intermediate_weights()]
        self.set_aside([path for path in reversed(files) if _step_of(path) > step])
        if self.metrics.is_file():
            kept = metrics.lines_until(self.metrics, step)
            with replacing(self.metrics) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
        with replacing(self.config) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _remove_unfinished(self) -> None:
        """Remove what a killed run has left half written, and nothing else."""
        for path in self.unfinished():
            _remove(path)

    def unfinished(self) -> list[Path]:
        """Files and folders of states that a killed run has left half written."""
        name = _escape(self.name)
        plain = [path.name for path in (self.config, self.metrics, self.losses)] + [RUN_TEXTS]
        weights = [f"{name}.safetensors", f"{name}-{STEP_PATTERN}.safetensors"]
        found: list[Path] = []
        written = {
            self.folder: [*plain, *weights],
            self.preview(0).parent: [f"{name}-{STEP_PATTERN}.png"],
        }
        for folder, patterns in written.items():
            for path in folder.glob(".*.tmp"):
                target = stands_in_for(path) or ""
                if path.is_file() and any(fnmatchcase(target, pattern) for pattern in patterns):
                    found.append(path)
        return [*found, *self.states.glob(f".{STEP_PATTERN}.tmp")]

    def weights(self, step: int | None = None) -> Path:
        """`NAME.safetensors` for the finished run, `NAME-step00000100.safetensors` before."""
        suffix = "" if step is None else f"-step{step:0{STEP_DIGITS}d}"
        return self.folder / f"{self.name}{suffix}.safetensors"

    def preview(self, step: int) -> Path:
        return self.folder / "sample" / f"{self.name}-step{step:0{STEP_DIGITS}d}.png"

    def intermediate_weights(self) -> list[Path]:
        """Weight files of earlier steps, oldest first."""
        return sorted(self.folder.glob(f"{_escape(self.name)}-{STEP_PATTERN}.safetensors"))

    def complete_states(self) -> list[Path]:
        """State folders, oldest first. A folder under its final name is complete."""
        return sorted(self.states.glob(STEP_PATTERN))

    def latest_state(self) -> Path | None:
        states = self.complete_states()
        return states[-1] if states else None

    def state(self, step: int) -> Path:
        """A complete state of that step, if there is one."""
        return self.states / f"step{step:0{STEP_DIGITS}d}"

    def unfinished_state(self, step: int) -> Path:
        """Where a state is written before it is complete; the same on all processes."""
        return self.states / f".step{step:0{STEP_DIGITS}d}.tmp"

    def clear(self, folder: Path) -> None:
        """Make an empty folder of it."""
        if os.path.lexists(folder):
            _remove(folder)
        folder.mkdir(parents=True)

    def complete_state(self, folder: Path, step: int, record: Mapping[str, Any]) -> None:
        """Give a finished state folder its final name; it keeps the record of its run.

        What has that name is on the disk, with the metrics up to its step: it outlives a loss of
        power.
        """
        write_facts(folder, step, record)
        sync_tree(folder)
        if self.metrics.is_file():
            sync(self.metrics)
        final = self.state(step)
        if final.exists():
            self.set_aside([final])
        folder.rename(final)
        for changed in (self.states, self.folder, self.folder.parent):
            sync(changed)

    def set_aside(self, paths: Sequence[Path]) -> None:
        """Move what another course of this run has saved to a folder where nothing is deleted."""
        if not paths:
            return
        numbered = (self.folder / f"set_aside_{number}" for number in count(1))
        folder = next(path for path in numbered if not os.path.lexists(path))
        folder.mkdir()
        for path in paths:
            path.rename(folder / path.name)
        for changed in (folder, self.folder, self.states):
            if changed.is_dir():
                sync(changed)
        names = ", ".join(path.name for path in paths)
        log.warning("Moved to %s, since others will take their place: %s", folder, names)

    def prune(self, keep: int) -> None:
        """Keep only the newest `keep` states and intermediate weights."""
        for path in self.complete_states()[:-keep]:
            # First it loses the name that says it is complete.
            removed = path.rename(self.unfinished_state(_step_of(path)))
            _remove(removed)
        for path in self.intermediate_weights()[:-keep]:
            path.unlink()

    def remove_states(self) -> None:
        shutil.rmtree(self.states, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove a file or a folder; of a link to one the link alone."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _escape(name: str) -> str:
    """A file name as a glob pattern that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _step_of(path: Path) -> int:
    """The number at the end of the name of a state or of intermediate weights."""
    return int(path.stem[-STEP_DIGITS:])
