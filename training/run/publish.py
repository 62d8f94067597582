"""From the bundle of a state to a weight file for ComfyUI, in the number format of the flags."""

from __future__ import annotations

from pathlib import Path

import torch

from ...common.files import link_or_copy
from ...models.weights import read_weights, write_weights
from ..errors import TrainingError

FORMATS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # sd-scripts'


def publish(bundle: Path, path: Path, precision: str) -> None:
    """Write the bundle's weights to `path`; in full precision it becomes the file's second name.

    Raises TrainingError where a weight is beyond the format's range.
    """
    dtype = FORMATS[precision]
    if dtype is torch.float32:
        link_or_copy(bundle, path)
        return
    file = read_weights(bundle)
    tensors = {key: value.to(dtype) for key, value in file.tensors.items()}
    beyond = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if beyond:
        raise TrainingError(
            f"--save_precision {precision}: {beyond[0]} has values beyond {precision}'s range. "
            "The state is kept in full precision: give the same command with --save_precision "
            "float, or bf16."
        )
    write_weights(path, tensors, file.metadata)
