"""Pickles written by hand: small, and made to hang or to run something."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

Write = Callable[[Path], object]


def as_zip(pickle: bytes) -> Write:
    """A file as `torch.save` writes it, with this pickle in place of its own."""

    def write(path: Path) -> None:
        torch.save({"a": torch.ones(1)}, path)
        with zipfile.ZipFile(path) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries:
                archive.writestr(name, pickle if name.endswith("data.pkl") else data)

    return write


def tuples_in_tuples(depth: int = 60) -> bytes:
    """{t: 1} with t a pair of pairs of pairs ...: hashing it takes 2 ** depth steps."""
    pair = b"h\x00\x86q\x00"  # (t, t), called t
    return b"\x80\x02}K\x01\x85q\x00" + pair * depth + b"K\x01s."
