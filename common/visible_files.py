"""The files of a folder, without hidden ones; and without passing over what cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def visible_files(
    folder: Path,
    unreadable: Callable[[OSError], None],
    subfolders: bool = True,
    skipped: Path | None = None,
) -> Iterator[Path]:
    """All below `folder` that is no folder and not hidden, nor in the folder `skipped`.

    unreadable: is told of each folder that cannot be read.
    """
    # Not rglob: it passes over those in silence.
    for place, folders, files in os.walk(folder, onerror=unreadable):
        inside = Path(place)
        folders[:] = [
            name
            for name in folders
            if subfolders and not name.startswith(".") and inside / name != skipped
        ]
        yield from (inside / name for name in files if not name.startswith("."))
