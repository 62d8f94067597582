"""Whether a pickle from a stranger can be given to PyTorch's reader, which runs none of it.

`torch.load(..., weights_only=True)` builds what the pickle says. This looks at it first: at the
names it uses, and at how much work and memory building it would take.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .text import shortened

ZIP = b"PK\x03\x04"  # begins a file of torch's present format
LEGACY_PICKLES = 5  # that begin a file of the format before; values follow
MOST_OPERATIONS = 2_000_000  # a Stable Diffusion checkpoint has about 40,000
LARGEST_TUPLE = 100_000  # values, those of the tuples in it included: hashing one visits them all
LARGEST_NUMBER = 1 << 63  # larger ones can be chosen so that a dictionary of them takes hours
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # the exception: it begins files of the older format

DAMAGED = "Copy or download it again, from a source that you trust."
CONVERT = "Convert it to .safetensors, or download it again from a source that you trust."

MARK = 0  # on the stack, below what a tuple or a list takes
VALUES = (
    *("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
    "GLOBAL",
)
# What the operations do that PyTorch's reader knows: how many values they take, and what they put.
EFFECTS: dict[str, tuple[int, tuple[int, ...]]] = {
    "PROTO": (0, ()),
    "MARK": (0, (MARK,)),
    **dict.fromkeys(VALUES, (0, (1,))),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), (2, (1,))),
    **dict.fromkeys(("BUILD", "APPEND"), (1, ())),
    "SETITEM": (2, ()),
    "BINPERSID": (1, (1,)),
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class ContentError(ValueError):
    """What a file holds cannot be used: the finding and the remedy, without the file's name."""


def check_pickle(path: Path) -> None:
    """Raise ContentError for a file that is no plain one of `torch.save`, of either format.

    A zip must have whole and uncompressed entries: read through a memory map, compressed ones
    would be noise; unpacked, they may fill the memory. Raises OSError, or BadZipFile for a damaged
    zip; what else is damaged, torch's reader says.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            file.seek(0)
            _check_stream(file, LEGACY_PICKLES)
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
                with archive.open(entry) as pickle:
                    _check_stream(pickle, 1)


def _check_stream(file: IO[bytes], pickles: int) -> None:
    try:
        for _ in range(pickles):
            _check_one(pickletools.genops(file))
    except ContentError:
        raise
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError):
        return  # damaged, or of a kind that torch's reader does not know: it says how


def _check_one(operations: Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]) -> None:
    sizes = _Sizes()
    for number, (operation, argument, _place) in enumerate(operations):
        name = operation.name
        if name == "STOP":
            return
        if number > MOST_OPERATIONS:
            raise ContentError(f"its pickle has over {MOST_OPERATIONS} operations. {DAMAGED}")
        if name == "GLOBAL":
            _check_name(str(argument))
        if name == "LONG1" and not _is_plausible(argument):
            raise ContentError(f"it holds numbers that no model has. {DAMAGED}")
        if sizes.after(name, argument) > LARGEST_TUPLE:
            raise ContentError(f"it holds tuples in tuples without end. {DAMAGED}")


class _Sizes:
    """A pickle's stack, with the size of each value in place of the value."""

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.memo: dict[object, int] = {}

    def after(self, name: str, argument: object) -> int:
        """The size of the topmost value after an operation. Raises LookupError for unknown ones."""
        stack = self.stack
        if name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            size = self._down_to_mark()
            if name == "TUPLE":
                stack.append(size)
        elif name in TUPLES:
            stack[-TUPLES[name] :] = [1 + sum(stack[-TUPLES[name] :])]
        else:
            taken, put = EFFECTS[name]
            del stack[len(stack) - taken :]
            stack += put
        return stack[-1] if stack else MARK

    def _down_to_mark(self) -> int:
        size = 1
        while (value := self.stack.pop()) != MARK:
            size += value
        return size


def _check_name(name: str) -> None:
    """name: module and name, with a blank between them."""
    module = name.partition(" ")[0]
    if module != "torch" and not module.startswith("torch.") and name != "collections OrderedDict":
        raise ContentError(
            "it holds more than tensors, which is refused because such a file can run code "
            f"({shortened(name.replace(' ', '.', 1))}). Convert it to .safetensors."
        )


def _is_plausible(number: object) -> bool:
    return isinstance(number, int) and (abs(number) <= LARGEST_NUMBER or number == MAGIC_NUMBER)
