"""The files of a folder, without hidden ones; and without passing over what cannot be read."""

from __future__ import annotations

import errno
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

    unreadable: is told of each folder that cannot be read, or is a link, which is not followed.
    """
    # Not rglob: it passes over those in silence.
    for place, folders, files in os.walk(folder, onerror=unreadable):
        inside = Path(place)
        folders[:] = [
            name
            for name in folders
            if subfolders and not name.startswith(".") and inside / name != skipped
        ]
        for name in folders:
            if (inside / name).is_symlink():
                found = "a link to a folder, which is not followed; copy the folder there"
                unreadable(OSError(errno.ELOOP, found, str(inside / name)))
        yield from (inside / name for name in files if not name.startswith("."))
