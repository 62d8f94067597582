"""Weight files: reading, merging and writing them. Which kinds there are: kinds.py."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..common.errors import MessageError
from ..common.files import replacing, system_error
from ..common.pickles import ZIP, ContentError, check_pickle
from ..common.text import one_line, printable, shortened
from .content import check_count, check_values, named_tensors
from .kinds import (
    ADVICE,
    CONTROL,
    DECODER,
    DHI_KEY,
    HINT_CHANNELS,
    SIAMESE_KINDS,
    USED_KINDS,
    Kind,
    identify,
)

SAFETENSORS = (".safetensors", ".sft")  # files with other suffixes are read as pickles
PICKLE = b"\x80"  # begins a file of torch's format before ZIP
# What torch's reader of pickles raises, for data that ends early or is no pickle at all too.
UNREADABLE = (
    UnpicklingError, BadZipFile, RuntimeError, LookupError, EOFError, ValueError, struct.error,
    AttributeError, TypeError, ArithmeticError, AssertionError, ImportError, MemoryError,
    OSError,  # "invalid argument" for a zip whose last bytes are missing
)  # fmt: skip
# The part of torch's message that names what it refused; around it stands advice to load anyway.
REFUSED = re.compile(r"unsupported (?:global|operand).*?(?=\. |\.?$)", re.IGNORECASE | re.MULTILINE)

StateDict = dict[str, Tensor]


class WeightsError(MessageError, ValueError):
    """A weight file is missing, damaged or of the wrong kind."""


@dataclass(frozen=True)
class WeightFile:
    """A weight file in memory: tensors under the published keys, plus string metadata."""

    path: Path
    kind: Kind
    tensors: StateDict = field(repr=False)
    metadata: dict[str, str]

    def control(self) -> StateDict:
        """The ControlNet's tensors, without the `control_model.` prefix."""
        if self.kind is Kind.CONTROL_ONLY and DHI_KEY in self.tensors:
            return dict(self.tensors)
        return without_prefix(self.tensors, CONTROL)

    def decoder(self) -> StateDict:
        """The UNet decoder's tensors under full keys; empty for a ControlNet-only file."""
        return {key: value for key, value in self.tensors.items() if key.startswith(DECODER)}

    def base(self) -> StateDict:
        """Everything but the ControlNet: for a merged checkpoint, a plain checkpoint."""
        return {key: value for key, value in self.tensors.items() if not key.startswith(CONTROL)}


def read_weights(path: str | os.PathLike[str], expect: Iterable[Kind] | None = None) -> WeightFile:
    """Read a .safetensors or pickle file (`weights_only=True`) on the CPU.

    Raises WeightsError when the file is missing, damaged, of a kind not in `expect`, or holds what
    cannot be used (models/content.py).
    """
    path = Path(path)
    check_is_file(path)
    try:
        tensors, metadata = _read_any(path)
        kind = identify({key: tuple(value.shape) for key, value in tensors.items()})
        check_kind(path, kind, expect)
        if kind in USED_KINDS:
            check_values(tensors, every=kind is Kind.CONTROL_ONLY)
    except ContentError as error:
        raise WeightsError(f"{path}: {error}") from error
    weights = WeightFile(path, kind, tensors, metadata)
    if kind in SIAMESE_KINDS:
        _check_hint_channels(weights)
    return weights


def _check_hint_channels(weights: WeightFile) -> None:
    """Raise WeightsError unless the DHI begins with the convolution it always begins with."""
    shape = tuple(weights.control()[DHI_KEY].shape)
    if len(shape) != 4 or shape[1] not in HINT_CHANNELS:
        raise WeightsError(
            f"{weights.path}: {DHI_KEY} has the shape {shape}; expected (16, C, 3, 3) with C one "
            f"of {HINT_CHANNELS}, the hint's channels. Copy or train it again."
        )


def is_safetensors(path: Path) -> bool:
    """By the name: whether the file is read as safetensors, not as a pickle."""
    return path.suffix.lower() in SAFETENSORS


def check_is_file(path: Path) -> None:
    """Raise WeightsError for what cannot be opened, or is no file."""
    if printable(str(path)) != str(path):
        raise WeightsError(f"{path}: the name is not UTF-8 text. Rename it, and try again.")
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file. Check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(
            f"{path}: cannot be read ({reason}). Check the path and its permissions."
        ) from error
    if stat.S_ISDIR(mode):
        raise WeightsError(
            f"{path}: a folder; expected a single file. {ADVICE[Kind.DIFFUSERS_UNET]}"
        )
    raise WeightsError(f"{path}: a pipe or a device; expected a file. Check the path.")


def check_kind(path: Path, kind: Kind, expect: Iterable[Kind] | None) -> None:
    """Raise WeightsError unless `kind` is one of `expect`; None allows every kind."""
    wanted = tuple(expect) if expect is not None else tuple(Kind)
    if kind not in wanted:
        expected = " or ".join(item.value for item in wanted)
        raise WeightsError(f"{path}: expected {expected}; this is {kind.value}. {ADVICE[kind]}")


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by key from a .safetensors file's header alone, for `identify`.

    Raises WeightsError for a damaged file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, *UNREADABLE) as error:
        raise _damaged(path, error) from error


def read_strings(path: Path) -> dict[str, str]:
    """The metadata in a .safetensors file's header; none of other files. Raises WeightsError."""
    if not is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, *UNREADABLE) as error:
        raise _damaged(path, error) from error


def _read_any(path: Path) -> tuple[StateDict, dict[str, str]]:
    if is_safetensors(path):
        return _read_safetensors(path)
    start = _first_bytes(path)
    if not start.startswith((ZIP, PICKLE)):
        raise WeightsError(
            f"{path}: not a weight file ({path.stat().st_size} bytes, begins with {start!r}). Copy "
            "or download it again."
        )
    try:
        check_pickle(path)
        # Only the zip format can be memory-mapped.
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=start.startswith(ZIP)
        )
    except ContentError:
        raise
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    return named_tensors(content, path.stat().st_size), {}


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            check_count(len(file.keys()))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except ContentError:
        raise
    except (SafetensorError, *UNREADABLE) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception, form: str = "safetensors") -> WeightsError:
    return WeightsError(
        f"{path}: not a {form} file, or a truncated one ({path.stat().st_size} bytes; "
        f"{first_line(error)}). Copy or download it again."
    )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    """The error for a file that torch cannot read."""
    if isinstance(error, UnpicklingError):
        refused = REFUSED.search(str(error))
        reason = f" ({shortened(refused[0])})" if refused else ""
        return WeightsError(
            f"{path}: it holds more than tensors, which is refused because such a file can run "
            f"code{reason}. Convert it to .safetensors."
        )
    return _damaged(path, error, "PyTorch")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(24)


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 120 characters; without one, its type."""
    return one_line(str(error).split("\n", 1)[0][:120]) or type(error).__name__


def write_weights(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a .safetensors file atomically: a temporary name in the same folder, then a rename.

    Raises OSError where the system refuses, as on a full disk; nothing of the file is left then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        values = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)  # what new files have here
        try:
            save_file(values, temporary, metadata=dict(metadata))
        except SafetensorError as error:
            raise system_error(error, path) or error from error
        temporary.chmod(mode)  # safetensors leaves it to its owner alone


def merge(base: Mapping[str, Tensor], bundle: WeightFile) -> StateDict:
    """Base checkpoint + bundle = merged checkpoint, every value unchanged.

    Where the bundle's number format is the smaller one, its decoder takes the base's, so that the
    UNet has one and is loaded as the base is. Raises WeightsError when the bundle's decoder keys or
    shapes are not the base's.
    """
    decoder = bundle.decoder()
    expected = {key: value for key, value in base.items() if key.startswith(DECODER)}
    check_keys(decoder, expected, f"{bundle.path}: decoder")
    control = {CONTROL + key: value for key, value in bundle.control().items()}
    decoder = {
        key: value.to(_wider(value.dtype, base[key].dtype)) for key, value in decoder.items()
    }
    return {**base, **decoder, **control}


def _wider(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """The number format that holds the values of both."""
    if first == second:
        return first
    if first.itemsize != second.itemsize:
        return max(first, second, key=lambda dtype: dtype.itemsize)
    # PyTorch does not promote the two formats of 8 bits, which float16 holds.
    return torch.float16 if first.itemsize == 1 else torch.promote_types(first, second)


def check_keys(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise WeightsError, with the first five and their number, unless keys and shapes agree."""
    problems = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected
            if key in found and found[key].shape != expected[key].shape
        ],
    }
    lines = [
        f"{len(keys)} {problem}: "
        + ", ".join([*map(shortened, keys[:5]), *(["..."] if len(keys) > 5 else [])])
        for problem, keys in problems.items()
        if keys
    ]
    if lines:
        raise WeightsError(f"{what}: the weights do not fit this model. " + "; ".join(lines))


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> StateDict:
    """The tensors under `prefix`, with the prefix removed."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def load_checked(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load every weight, or raise WeightsError naming the first five that do not fit."""
    check_keys(weights, module.state_dict(), what)
    module.load_state_dict(weights)
