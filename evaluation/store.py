"""Finished trainings on disk, so that a stopped evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..common.files import replacing, system_error
from ..common.text import shortened
from ..common.text_files import parse_json, read_text
from .errors import OutputError
from .finite import check_finite
from .overlap import METRICS
from .pair_sets import PairSet
from .segmenters import Segmenter, colour_statistics
from .settings import Settings
from .train_segmenter import Training, train

# Of the settings, what a single training depends on.
DECIDING = ("resolution", "seed", "steps", "batch_size", "learning_rate", "validations")


def training_key(training: Training, normalised_by: PairSet, settings: Settings) -> str:
    """Changes with everything that decides the trained weights (same libraries, same machine)."""
    values = asdict(settings)
    content = {
        **{name: values[name] for name in DECIDING},
        "segmenter": training.segmenter,
        "pool": training.pool.fingerprint(),
        "validation": training.validation.fingerprint(),
        "normalised_by": normalised_by.fingerprint(),
        "augment": training.augment,
        "number": training.number,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


class Store:
    """A folder with one JSON of figures for each training, and weights where they are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def figures(self, key: str, test: PairSet) -> dict[str, Any] | None:
        """What a finished training measured on that test set."""
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return None
        try:
            content = parse_json(read_text(path))
            if content["test"] != test.fingerprint():
                return None
            values = np.array(content["values"], dtype=float)
            _check_values(values, len(test))
            return {**content, "values": values}
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise _damaged(path, error) from error

    def write_figures(self, key: str, test: PairSet, content: dict[str, Any]) -> None:
        values = content["values"].tolist()
        entry = {**content, "test": test.fingerprint(), "metrics": METRICS, "values": values}
        with replacing(self.folder / f"{key}.json") as temporary:
            temporary.write_text(json.dumps(entry), "utf-8")

    def load_weights(self, key: str, segmenter: Segmenter) -> bool:
        """Fill in the weights of a finished training; False where there are none."""
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            return False
        try:
            weights = load_file(path)
            check_finite(weights)
            segmenter.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise _damaged(path, error) from error
        segmenter.eval()
        return True

    def write_weights(self, key: str, segmenter: Segmenter) -> None:
        tensors = {name: value.contiguous() for name, value in segmenter.state_dict().items()}
        path = self.folder / f"{key}.safetensors"
        with replacing(path) as temporary:
            try:
                save_file(tensors, temporary)
            except SafetensorError as error:
                raise system_error(error, path) or error from error


def _check_values(values: np.ndarray, images: int) -> None:
    """Raise ValueError unless these may be the figures of so many test images."""
    if values.shape != (images, len(METRICS)):
        raise ValueError(f"values of the shape {values.shape}, expected {(images, len(METRICS))}")
    # Dice and IoU are shares, the third a distance.
    if not (np.isfinite(values).all() and (values >= 0).all() and (values[:, :2] <= 1).all()):
        raise ValueError("values that no training reaches")


def _damaged(path: Path, error: Exception) -> OutputError:
    reason = shortened(f"{type(error).__name__}: {error}")
    return OutputError(
        f"{path}: damaged ({reason}). Delete it: the same command trains that part again."
    )


def remembered(
    store: Store, training: Training, normalised_by: PairSet, settings: Settings
) -> Segmenter:
    """The segmenter of that training, done now or earlier."""
    key = training_key(training, normalised_by, settings)
    statistics = colour_statistics(normalised_by.images)
    segmenter = Segmenter(training.segmenter, *statistics).to(settings.torch_device())
    if not store.load_weights(key, segmenter):
        segmenter = train(training, statistics, settings, training.segmenter).segmenter
        store.write_weights(key, segmenter)
    return segmenter
