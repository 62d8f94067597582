"""The one reader of TOML files."""

from __future__ import annotations

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
