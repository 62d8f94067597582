"""Whether tensors from a file can be computed with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.text import shown


def check_finite(weights: Mapping[Any, Any]) -> None:
    """Raise ValueError for what is no finite tensor by name, with memory for each value."""
    for name, value in weights.items():
        plain = isinstance(name, str) and isinstance(value, Tensor) and value.device.type == "cpu"
        # A tensor may show one value as many: to look at all of them would fill the memory.
        whole = plain and value.untyped_storage().nbytes() >= value.numel() * value.itemsize
        if not whole or not torch.isfinite(value).all():
            raise ValueError(f"{shown(name)} is no tensor of finite values")
