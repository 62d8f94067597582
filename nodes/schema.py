"""What the nodes share: category, search aliases, seed and model file inputs, checks of inputs."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..common.files import describe_error
from ..common.text import printable, shortened, shown, visible

CATEGORY = "Siamese-Diffusion"
MAX_SEED = 0xFFFFFFFFFFFFFFFF
CHOICES = 10  # of a list, in a message


# For inputs that few people change: newer pages fold them away; older ComfyUIs refuse the word.
ADVANCED: dict[str, Any] = (
    {"advanced": True} if "advanced" in inspect.signature(io.Int.Input).parameters else {}
)


def node_schema(*, search_aliases: Sequence[str] = (), **fields: Any) -> io.Schema:
    """A schema in the pack's category, with search aliases if this ComfyUI supports them."""
    if any(field.name == "search_aliases" for field in dataclasses.fields(io.Schema)):
        fields["search_aliases"] = list(search_aliases)
    return io.Schema(category=CATEGORY, **fields)


def seed_input(tooltip: str) -> io.Int.Input:
    """The seed, with the page's control that changes it after each run."""
    return io.Int.Input(
        "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip
    )


def file_input(name: str, folder: str, tooltip: str) -> io.Combo.Input:
    """A choice of the files in one of ComfyUI's model folders, updated at each refresh."""
    return io.Combo.Input(name, options=folder_paths.get_filename_list(folder), tooltip=tooltip)


def file_path(folder: str, name: str) -> Path:
    """Full path of a listed file. Raises FileNotFoundError when it no longer exists."""
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def file_fingerprint(folder: str, name: str) -> str:
    """A value that changes with the file, so that a changed file is loaded again."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return "missing"
    status = Path(path).stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's `execute`, after a check of its inputs: ComfyUI does not check all of them.

    Older versions accept any choice in V3 nodes, and none checks the values of connections. Errors
    whose text cannot be encoded, such as those with a file name that is not UTF-8, end ComfyUI's
    queue: they are raised with that text escaped.
    """
    names = [*inspect.signature(execute).parameters][1:]

    @wraps(execute)
    def run(cls: type[io.ComfyNode], *arguments: Any, **inputs: Any) -> io.NodeOutput:
        try:
            schema = cls.define_schema()
            given = {**dict(zip(names, arguments, strict=False)), **inputs}
            check_inputs(schema.inputs, given, schema.is_input_list)
            return execute(cls, *arguments, **inputs)
        except Exception as error:
            text = str(error)
            if isinstance(error, OSError) and error.errno is not None:
                text = f"{describe_error(error)}. Make room, or check the path and its permissions."
            elif visible(text) == text:
                raise
            raise ValueError(visible(text)) from None

    return run


def check_inputs(inputs: Sequence[io.Input], given: Mapping[str, Any], lists: bool = False) -> None:
    """Raise ValueError for a choice, number or text that the schema does not allow."""
    for declared in inputs:
        value: Any = given.get(declared.id)
        if value is None and (declared.optional or declared.id not in given):
            continue  # left out
        if lists and (
            not isinstance(value, (list, tuple)) or (not value and _problem(declared, None))
        ):
            raise ValueError(f"{declared.id} is {shown(value)}; expected a list. Set it again.")
        for one in value if lists else [value]:
            problem = _problem(declared, one)
            if problem:
                raise ValueError(
                    f"{declared.id} is {shown(one)}; expected {problem}. Set it again."
                )


def _problem(declared: io.Input, value: Any) -> str | None:
    """What the input expects, where `value` is not that."""
    if isinstance(declared, io.Combo.Input):
        options = declared.options or []
        more = ", ..." if len(options) > CHOICES else ""
        listed = ", ".join(shortened(str(option)) for option in options[:CHOICES])
        return (
            None
            if isinstance(value, str) and value in options
            else f"one of: {listed or 'nothing, no file is there'}{more}"
        )
    if isinstance(declared, (io.Int.Input, io.Float.Input)):
        low = -math.inf if declared.min is None else declared.min
        high = math.inf if declared.max is None else declared.max
        whole = isinstance(declared, io.Int.Input)
        number = isinstance(value, Integral if whole else Real)
        # In this way NaN is out of every range, and infinity too.
        if number and -math.inf < value < math.inf and low <= value <= high:
            return None
        return f"a {'whole ' if whole else ''}number from {low} to {high}"
    if isinstance(declared, io.Boolean.Input):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(declared, io.String.Input):
        good = isinstance(value, str) and printable(value) == value
        return None if good else "text without lone surrogates"
    return None
