"""Loading a bundle in ComfyUI: what the check of its values adds.

Without it the file is only mapped, and what it holds is read by the first step that needs it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from ..models import weights
from ..models.metadata import SiameseMetadata
from ..models.recipe import RECIPES
from ..models.weights import write_weights
from ..tools.comfy_host import import_comfyui
from ..training.method.bundle import bundle_tensors
from .measure import interleave, machine, median_ratio
from .report import Result, compare
from .sampling import TINY_SHAPE
from .workload import Scale, random_networks

FORMATS = {"fp16": torch.float16, "float32": torch.float32}


def measure_loading(scale: Scale, tiny: bool = False) -> Result:
    """Seconds of reading a bundle and making its ControlNet, with and without the check."""
    import_comfyui()
    from ..nodes.control import load_control

    scale = replace(scale, shape=TINY_SHAPE) if tiny else scale
    tensors = bundle_tensors(random_networks(scale.shape), scale.shape)
    side = scale.pixels
    metadata = SiameseMetadata(RECIPES["published"], (side, side), 1, "0" * 64, {"255": "lesion"})
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, dtype in FORMATS.items():
            path = Path(folder) / f"{name}.safetensors"
            values = {key: tensor.to(dtype) for key, tensor in tensors.items()}
            write_weights(path, values, metadata.to_strings())
            load = _loading(path, load_control)
            seconds = interleave({"checked": load, "unchecked": _unchecked(load)}, scale.rounds)
            path.unlink()
            ratio = median_ratio(seconds["checked"], seconds["unchecked"])
            without, ours = (statistics.median(seconds[side]) for side in ("unchecked", "checked"))
            rows.append(compare(f"a bundle in {name}", without, ours, "s", ratio=ratio))
            raw[name] = seconds
    title = f"Loading in ComfyUI, from the disk's cache: {scale.name}"
    return Result("loading", title, machine(), rows, raw, baseline="without the check")


def _loading(
    path: Path, load_control: Callable[[weights.WeightFile], object]
) -> Callable[[], None]:
    def load() -> None:
        load_control(weights.read_weights(path, expect=weights.SIAMESE_KINDS))

    return load


def _unchecked(load: Callable[[], None]) -> Callable[[], None]:
    def unchecked() -> None:
        with patch.object(weights, "check_values"):
            load()

    return unchecked
