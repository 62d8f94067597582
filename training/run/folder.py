"""What a run leaves on disk: weight files and resumable states, each complete or not there."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.files import replacing
from ...models.weights import WeightsError
from ..errors import ConfigError

if TYPE_CHECKING:  # Seconds to import: a folder is checked before anything is loaded.
    pass

log = logging.getLogger(__name__)

STATE_WEIGHTS = "weights.safetensors"
EMA = "ema.pt"
STATE_FACTS = "state.json"
STEP_DIGITS = 8  # as sd-scripts names its files
STEP_PATTERN = "step" + STEP_DIGITS * "[0-9]"


class RunFolder:
    """The files of one run: names as sd-scripts gives them, states in a folder of their own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.config = folder / "config.json"
        self.metrics = folder / "metrics.jsonl"
        self.losses = folder / "losses.png"
        self.states = folder / "state"

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
        if self.weights().is_file():
            raise ConfigError(
                f"--output_dir: {self.weights()} exists, that run is finished. Choose another "
                "--output_dir."
            )
        if not self.config.is_file():
            return
        name = json.loads(self.config.read_text(encoding="utf-8")).get("output_name")
        if name != self.name:
            raise ConfigError(
                f"--output_name is {self.name!r}, but {self.config} is of a run with the name "
                f"{name!r}. Choose another --output_dir, or give that name to go on with it."
            )

    def begin(self, record: Mapping[str, Any], step: int) -> None:
        """Make the folder ready for a run that goes on from `step`, and write config.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.states, self.preview(0).parent):
            for path in folder.glob(".*.tmp"):  # of a killed run
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        files = [*self.complete_states(), *self.intermediate_weights()]
        self.set_aside([path for path in reversed(files) if _step_of(path) > step])
        self._drop_metrics_after(step)
        with replacing(self.config) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

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

    def unfinished_state(self, step: int) -> Path:
        """Where a state is written before it is complete; the same on all processes."""
        return self.states / f".step{step:0{STEP_DIGITS}d}.tmp"

    def clear(self, folder: Path) -> None:
        """Make an empty folder of it."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def complete_state(self, folder: Path, step: int, record: Mapping[str, Any]) -> None:
        """Give a finished state folder its final name; it keeps the record of its run."""
        facts = {"step": step, "record": record}
        (folder / STATE_FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")
        final = self.states / f"step{step:0{STEP_DIGITS}d}"
        if final.exists():
            self.set_aside([final])
        folder.rename(final)

    def set_aside(self, paths: Sequence[Path]) -> None:
        """Move what another course of this run has saved to a folder where nothing is deleted."""
        if not paths:
            return
        numbered = (self.folder / f"set_aside_{number}" for number in count(1))
        folder = next(path for path in numbered if not path.exists())
        folder.mkdir()
        for path in paths:
            path.rename(folder / path.name)
        names = ", ".join(path.name for path in paths)
        log.warning("Moved to %s, since others will take their place: %s", folder, names)

    def prune(self, keep: int) -> None:
        """Keep only the newest `keep` states and intermediate weights."""
        for path in self.complete_states()[:-keep]:
            shutil.rmtree(path)
        for path in self.intermediate_weights()[:-keep]:
            path.unlink()

    def remove_states(self) -> None:
        shutil.rmtree(self.states, ignore_errors=True)

    def _drop_metrics_after(self, step: int) -> None:
        """A run killed after its last state has logged steps that will be repeated."""
        if not self.metrics.is_file():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        with replacing(self.metrics) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def _escape(name: str) -> str:
    """A file name as a glob pattern that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _step_of(path: Path) -> int:
    """The number at the end of the name of a state or of intermediate weights."""
    return int(path.stem[-STEP_DIGITS:])


def read_state(state: Path) -> tuple[int, dict[str, Any]]:
    """Step of a state folder, and the record of its run. Raises WeightsError if it is none."""
    try:
        facts = json.loads((state / STATE_FACTS).read_text(encoding="utf-8"))
        if "record" not in facts:  # of the first versions
            config = state.parent.parent / "config.json"
            facts["record"] = json.loads(config.read_text(encoding="utf-8"))
        return int(facts["step"]), dict(facts["record"])
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{state}: not a training state ({error}). Give a folder such as "
            "OUTPUT_DIR/state/step00000500."
        ) from error
