"""Hashes of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .tar_members import open_binary


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, also of one in a tar, hexadecimal."""
    digest = hashlib.sha256()
    with open_binary(Path(path)) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
