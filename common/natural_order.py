"""Natural order of numbered files."""

from __future__ import annotations

import re
from pathlib import PurePath


def natural(name: str | PurePath) -> list[int | str]:
    """Sort key of a name or path: frame2 before frame10, upper and lower case alike."""
    text = name.as_posix() if isinstance(name, PurePath) else name
    parts = re.split(r"(\d+)", text.casefold())
    return [int(part) if part.isdecimal() else part for part in parts]
