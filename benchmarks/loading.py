"""Loading a bundle in ComfyUI: what the check of its values adds.

Loading only maps a file. What it holds is read when it goes to the device, or by the check before
that; so what a user waits for ends with that copy, and both sides make it. A file that is loaded
for the first time comes from the disk; one that was loaded before may be in the system's memory.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from ..models import weights
from ..models.kinds import SIAMESE_KINDS
from ..models.metadata import SiameseMetadata
from ..models.recipe import RECIPES
from ..models.weights import write_weights
from ..tools.comfy_host import import_comfyui
from ..training.method.bundle import bundle_tensors
from .measure import interleave, machine, median_ratio
from .report import Result, compare
from .sampling import TINY_SHAPE
from .workload import Scale, random_networks


@dataclass(frozen=True)
class Use:
    """What is timed: from where values come, and whether they are copied to the device."""

    what: str
    from_disk: bool
    copied: bool
    target: str = ""


USES = (
    Use("from the disk to the device", True, True, "≤ 1.10"),
    Use("from the system's cache to the device", False, True),
    Use("from the system's cache, only mapped", False, False),
)
FORMATS = {"fp16": torch.float16, "float32": torch.float32}


def measure_loading(scale: Scale, tiny: bool = False) -> Result:
    """Seconds of reading a bundle and making its ControlNet, with and without the check; and of
    that with the copy to a device after it."""
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
            for use in USES:
                load = _loading(path, load_control, use.copied)
                sides = {"checked": load, "unchecked": _unchecked(load)}
                before = partial(_forget, path) if use.from_disk else gc.collect
                seconds = interleave(sides, scale.rounds, before=before)
                ratio = median_ratio(seconds["checked"], seconds["unchecked"])
                without, ours = (
                    statistics.median(seconds[side]) for side in ("unchecked", "checked")
                )
                title = f"a bundle in {name}, {use.what}"
                rows.append(compare(title, without, ours, "s", use.target, ratio))
                raw[title] = seconds
            path.unlink()
    title = f"Loading in ComfyUI: {scale.name}"
    return Result("loading", title, machine(), rows, raw, baseline="without the check")


def _forget(path: Path) -> None:
    """Have the system drop a file from its cache, which keeps what is still mapped."""
    gc.collect()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _loading(
    path: Path, load_control: Callable[[weights.WeightFile], object], copied: bool
) -> Callable[[], None]:
    def load() -> None:
        file = weights.read_weights(path, expect=SIAMESE_KINDS)
        load_control(file)
        if copied:
            for tensor in file.tensors.values():
                tensor.clone()  # on a CPU the nearest to a copy to a device

    return load


def _unchecked(load: Callable[[], None]) -> Callable[[], None]:
    def unchecked() -> None:
        with patch.object(weights, "check_values"):
            load()

    return unchecked
