"""The one reader and writer of TOML files."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.text import shortened
from ..common.text_files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 1 << 20  # bytes
MOST_DOTS = 200  # in a line; the reader's time grows with their square

Table = Mapping[str, Any]


def read_toml(path: Path) -> Table:
    """The content of a TOML file. Raises ValueError that says what is wrong, without its name."""
    try:
        text = read_text(path)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); check the path") from error
    if len(text) > LARGEST:
        raise ValueError(f"larger than {LARGEST >> 20} MiB; expected a configuration")
    if any(line.count(".") > MOST_DOTS for line in text.splitlines()):
        raise ValueError(f"a line has over {MOST_DOTS} dots; expected short names and values")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("not TOML that can be read (nested too deeply); correct it") from None
    except ValueError as error:  # a number of 5,000 digits is no TOMLDecodeError
        advice = "; write Windows paths in single quotes" if "\\" in str(error) else ""
        raise ValueError(f"not TOML ({shortened(str(error))}); correct it{advice}") from error


def to_toml(values: Table) -> str:
    """Lines `name = value` for text, paths, numbers, booleans and lists of them.

    Raises ValueError for text that is none, such as a file's name in another encoding.
    """
    text = "".join(f"{name} = {_written(value)}\n" for name, value in values.items())
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object[error.start]!a} is no character of a text") from error
    return text


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    # JSON's escapes are TOML's too, but for one control character that JSON leaves as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
