"""Whether what a weight file holds can be used: plain tensors that are as large as they claim.

Files come from strangers. Sizes are checked before values are read: nothing here, and nothing
after it, takes more memory than a small multiple of the file's size.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..common.text import shortened

LEGACY_PICKLES = 5  # that begin a file of torch's format before zip; values follow
NESTING = 4  # how deep a `state_dict` may lie in others
SHARED = 2  # times a file's size that its tensors may take, because names may share a tensor
FLOATS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
# Float8 has no sums.
SUMMED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LARGE, ROW_STEP = 1 << 16, 16  # above so many values, only the first 1/16 is checked
# The parts of a checkpoint that are used; others, such as the samples of its schedule, are not.
NETWORKS = ("control_model.", "model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
# Constants of text encoders that are no weights: integers, and minus infinity above the diagonal.
CONSTANTS = (".position_ids", ".attn_mask")

DAMAGED = "Copy or download it again, from a source that you trust."
CONVERT = "Convert it to .safetensors, or download it again from a source that you trust."


class ContentError(ValueError):
    """What a file holds cannot be used: the finding and the remedy, without the file's name."""


def check_pickle(path: Path, zipped: bool) -> None:
    """Raise ContentError for a file that would take memory before it says what for.

    A zip must be as `torch.save` writes it, entries whole and uncompressed: read through a memory
    map, compressed ones would be noise; unpacked, they may fill the memory. All else is refused by
    torch's reader or, as a tensor, in `named_tensors`. Raises BadZipFile for a damaged zip.
    """
    if not zipped:
        with path.open("rb") as file:
            _check_globals(file, LEGACY_PICKLES)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ContentError(f"its zip is compressed, which PyTorch's files never are. {CONVERT}")
        if unpacked > size:
            raise ContentError(f"its zip claims {unpacked} bytes in a file of {size}. {DAMAGED}")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                with archive.open(entry) as file:
                    _check_globals(file, 1)


def _check_globals(file: IO[bytes], pickles: int) -> None:
    """Raise ContentError where one of the next pickles names `bytearray`, of any size it wants."""
    try:
        for _ in range(pickles):
            for opcode, argument, _place in pickletools.genops(file):
                if opcode.name == "GLOBAL" and str(argument).endswith(" bytearray"):
                    raise ContentError(f"it holds more than tensors (a bytearray). {CONVERT}")
    except ContentError:
        raise
    except (ValueError, LookupError, OverflowError, MemoryError):
        return  # damaged; torch's reader says how


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
    tensors = {
        key: _plain(key, value)
        for key, value in dict.items(content)
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    claimed = sum(value.numel() * value.itemsize for value in tensors.values())
    if claimed > SHARED * size:
        raise ContentError(f"its tensors claim {claimed} bytes in a file of {size}. {DAMAGED}")
    return tensors


def _plain(key: str, value: Tensor) -> Tensor:
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
    """Raise ContentError unless all weights are floating point and finite.

    every: of all tensors; else of those that belong to a network of a checkpoint. Of large tensors
    the first of ROW_STEP parts counts, so loading stays fast: training that diverged shows in all
    of them. What a single value elsewhere does, the check of the images finds before they are
    saved (nodes/pair_folder.py).
    """
    for key, value in tensors.items():
        if key.endswith(CONSTANTS) or not (every or key.startswith(NETWORKS)):
            continue
        if value.dtype not in FLOATS:
            raise ContentError(
                f"{shortened(key)} holds {value.dtype} values; expected floating point weights, "
                "such as float16 or float32. Train it, or convert it, again."
            )
        if not _is_finite(value):
            raise ContentError(
                f"{shortened(key)} holds values that are not finite (NaN or infinity): the "
                "training diverged, or the file is damaged. Use an earlier step, or download it "
                "again."
            )


def _is_finite(value: Tensor) -> bool:
    if value.numel() > LARGE:
        value = value[: max(1, len(value) // ROW_STEP)]
    if value.dtype not in SUMMED:
        value = value.to(torch.float16)
    # NaN and infinity stay in a sum; one that only overflows needs the slower look.
    total = value.sum(dtype=torch.float64 if value.dtype is torch.float64 else torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(value).all())
