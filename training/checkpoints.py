"""What a run leaves on disk: weight files and resumable states, each complete or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models.weights import CONTROL, UNET, StateDict, WeightsError, read_weights
from .ldm_keys import (
    UNetShape,
    control_to_diffusers,
    control_to_ldm,
    unet_to_diffusers,
    unet_to_ldm,
)
from .networks import SiameseNetworks

DECODER_NAMES = ("up_blocks.", "conv_norm_out.", "conv_out.")
STATE_WEIGHTS = "weights.safetensors"
AVERAGE = "ema.pt"
STEP_DIGITS = 8  # as sd-scripts names its files


def bundle_tensors(nets: SiameseNetworks, shape: UNetShape) -> StateDict:
    """All that is trained, under the published keys."""
    decoder = {k: v for k, v in nets.unet.state_dict().items() if k.startswith(DECODER_NAMES)}
    control = control_to_ldm(nets.controlnet.state_dict(), shape)
    return {
        **{CONTROL + key: value for key, value in control.items()},
        **{UNET + key: value for key, value in unet_to_ldm(decoder, shape).items()},
    }


def load_bundle(path: Path, nets: SiameseNetworks, shape: UNetShape) -> None:
    """Put a bundle's weights into the networks. Raises WeightsError where they do not fit."""
    file = read_weights(path)
    what = str(path)
    decoder = {key[len(UNET) :]: value for key, value in file.decoder().items()}
    try:
        nets.controlnet.load_state_dict(control_to_diffusers(file.control(), shape, what))
        unet = unet_to_diffusers(decoder, shape, what)
        nets.unet.load_state_dict({**nets.unet.state_dict(), **unet})
    except RuntimeError as error:
        raise WeightsError(f"{path}: does not fit the base model. {error}") from error


class RunFolder:
    """The files of one run: names as sd-scripts gives them, states in a folder of their own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.config = folder / "config.json"
        self.metrics = folder / "metrics.jsonl"
        self.losses = folder / "losses.png"
        self.states = folder / "state"

    def begin(self, record: Mapping[str, Any]) -> None:
        """Make the folder and write config.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / ".config.json.tmp"
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.config)

    def weights(self, step: int | None = None) -> Path:
        """`NAME.safetensors` for the finished run, `NAME-step00000100.safetensors` before."""
        suffix = "" if step is None else f"-step{step:0{STEP_DIGITS}d}"
        return self.folder / f"{self.name}{suffix}.safetensors"

    def preview(self, step: int) -> Path:
        return self.folder / "sample" / f"{self.name}-step{step:0{STEP_DIGITS}d}.png"

    def intermediate_weights(self) -> list[Path]:
        """Weight files of earlier steps, oldest first."""
        return sorted(self.folder.glob(f"{_escape(self.name)}-step*.safetensors"))

    def complete_states(self) -> list[Path]:
        """State folders, oldest first. A folder under its final name is complete."""
        return sorted(self.states.glob("step*"))

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

    def complete_state(self, folder: Path, step: int) -> None:
        """Give a finished state folder its final name."""
        (folder / "state.json").write_text(json.dumps({"step": step}), encoding="utf-8")
        final = self.states / f"step{step:0{STEP_DIGITS}d}"
        if final.exists():
            shutil.rmtree(final)
        folder.rename(final)

    def prune(self, keep: int) -> None:
        """Keep only the newest `keep` states and intermediate weights; delete unfinished files."""
        for path in self.complete_states()[:-keep]:
            shutil.rmtree(path)
        for path in self.intermediate_weights()[:-keep]:
            path.unlink()
        for path in [*self.states.glob(".step*.tmp"), *self.folder.glob(".*.tmp")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def drop_metrics_after(self, step: int) -> None:
        """A run killed after its last state has logged steps that will be repeated."""
        if not self.metrics.is_file():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        temporary = self.metrics.with_name(f".{self.metrics.name}.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(self.metrics)


def _escape(name: str) -> str:
    """A file name as a glob pattern that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def read_step(state: Path) -> int:
    """The step of a state folder. Raises WeightsError if it is none."""
    try:
        return int(json.loads((state / "state.json").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{state}: not a training state ({error}). Give a folder such as "
            "OUTPUT_DIR/state/step00000500."
        ) from error
