"""Whether what a weight file holds can be used: plain tensors that are as large as they claim.

Files come from strangers. Sizes are checked before values are read: nothing here, and nothing
after it, takes more memory than a small multiple of the file's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ..common.pickles import DAMAGED, ContentError
from ..common.text import shortened

READERS = 4  # tensors at a time: the first to look at a mapped tensor waits for the disk
MOST_TENSORS = 50_000  # a Stable Diffusion checkpoint has about 1,200
NESTING = 4  # how deep a `state_dict` may lie in others
SHARED = 2  # times a file's size that its tensors may take, because names may share a tensor
FLOATS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
# Float8 has no order.
ORDERED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# The parts of a checkpoint that are used; others, such as the samples of its schedule, are not.
NETWORKS = ("control_model.", "model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
# Constants of text encoders that are no weights: integers, and minus infinity above the diagonal.
CONSTANTS = (".position_ids", ".attn_mask")


def named_tensors(content: Any, size: int) -> dict[str, Tensor]:
    """The tensors of an unpickled checkpoint, plain ones, by name; maybe under `state_dict`.

    size: of the file, in bytes. Raises ContentError where tensors would take more than it holds.
    """
    # Methods of dict and Tensor themselves: a pickle can put other things under these names.
    for _ in range(NESTING):
        if not isinstance(content, dict) or not isinstance(dict.get(content, "state_dict"), dict):
            break
        content = dict.get(content, "state_dict")
    else:
        raise ContentError(
            f"more than {NESTING - 1} dictionaries called state_dict, one in the other. {DAMAGED}"
        )
    if not isinstance(content, dict):
        found = shortened(type(content).__name__)
        raise ContentError(f"expected a dictionary of tensors, found {found}. {DAMAGED}")
    check_count(len(content))
    tensors = {
        key: plain(key, value)
        for key, value in dict.items(content)
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    claimed = sum(value.numel() * value.itemsize for value in tensors.values())
    if claimed > SHARED * size:
        raise ContentError(f"its tensors claim {claimed} bytes in a file of {size}. {DAMAGED}")
    return tensors


def check_count(tensors: int) -> None:
    """Raise ContentError for more tensors than any model has: each takes time and memory."""
    if tensors > MOST_TENSORS:
        raise ContentError(f"holds {tensors} tensors; no model has over {MOST_TENSORS}. {DAMAGED}")


def plain(key: str, value: Tensor) -> Tensor:
    """The tensor without attributes or gradient; raises ContentError unless it is an ordinary one.

    That is: on the CPU, dense, not quantised, with memory for each of its values.
    """
    if type(value) not in (Tensor, torch.nn.Parameter):
        raise _odd(key, f"special ({type(value).__name__})")
    value = Tensor.detach(value)
    if value.is_nested or value.layout is not torch.strided:
        raise _odd(key, "nested" if value.is_nested else "sparse")
    if value.device.type != "cpu":
        raise _odd(key, "empty")
    if value.is_quantized:
        raise _odd(key, "quantised")
    if value.untyped_storage().nbytes() < value.numel() * value.itemsize:
        shape = shortened("x".join(map(str, value.shape)))
        raise ContentError(
            f"{shortened(key)} has the shape {shape}, but fewer values in the file. {DAMAGED}"
        )
    return value


def _odd(key: str, kind: str) -> ContentError:
    return ContentError(
        f"{shortened(key)} is {'an' if kind[0] in 'aeiou' else 'a'} {kind} tensor; expected a "
        f"dense one with all its values. Convert it again, or {DAMAGED[0].lower()}{DAMAGED[1:]}"
    )


def check_values(tensors: Mapping[str, Tensor], every: bool) -> None:
    """Raise ContentError unless all weights are floating point and finite, also as float32.

    every: of all tensors; else of those that belong to a network of a checkpoint.
    """
    weights = {
        key: value
        for key, value in tensors.items()
        if not key.endswith(CONSTANTS) and (every or key.startswith(NETWORKS))
    }
    for key, value in weights.items():
        if value.dtype not in FLOATS:
            raise ContentError(
                f"{shortened(key)} holds {value.dtype} values; expected floating point weights, "
                "such as float16 or float32. Train it, or convert it, again."
            )
    with ThreadPoolExecutor(READERS) as readers:
        finite = list(readers.map(is_finite, weights.values()))
    for key, fine in zip(weights, finite, strict=True):
        if not fine:
            raise ContentError(
                f"{shortened(key)} holds values that are not finite (NaN or infinity): the "
                "training diverged, or the file is damaged. Use an earlier step, or download it "
                "again."
            )


def is_finite(value: Tensor) -> bool:
    """Whether all values are finite as float32, which float64 ones need not be."""
    if not value.numel():
        return True
    # Minimum and maximum, which NaN passes through, in one pass over the memory.
    bounds = torch.stack(torch.aminmax(value if value.dtype in ORDERED else value.half()))
    return bool(torch.isfinite(bounds.float()).all())
