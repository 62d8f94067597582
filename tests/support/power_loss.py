"""What a disk would hold after a loss of power: only what was written out on request."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest


class DurableDisk:
    """A model of the folder `root`, kept by watching fsync and renames while it is written.

    A file's content is safe as it was when the file was last synced, and a folder's names as they
    were when the folder was. `at_every_change` is called after each of these calls.
    """

    def __init__(
        self,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        at_every_change: Callable[[DurableDisk], None],
    ) -> None:
        self.root = root
        self.names = {root.stat().st_ino: self._list(root)}  # of folders, by inode
        self.content: dict[int, bytes] = {}  # of files, by inode
        self._open: list[int] = []  # so that no inode is used twice
        self._report = at_every_change
        self._one_at_a_time = threading.RLock()  # a run writes on two threads
        for name in ("fsync", "replace", "rename"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))

    def files(self) -> dict[str, bytes]:
        """Content by path below the root; b"" where a name is safe and the content is not."""
        found: dict[str, bytes] = {}
        self._walk(self.root.stat().st_ino, "", found)
        return found

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)

    def _walk(self, folder: int, path: str, found: dict[str, bytes]) -> None:
        for name, (inode, is_folder) in self.names.get(folder, {}).items():
            if is_folder:
                self._walk(inode, f"{path}{name}/", found)
            else:
                found[path + name] = self.content.get(inode, b"")

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            with self._one_at_a_time:
                result = call(*arguments, **options)
                if len(arguments) == 1:
                    self._synced(arguments[0])
                self._report(self)
            return result

        return watched

    def _synced(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        inode = os.fstat(descriptor).st_ino
        self._open.append(os.dup(descriptor))
        if path.is_dir():
            self.names[inode] = self._list(path)
        else:
            self.content[inode] = path.read_bytes()

    @staticmethod
    def _list(folder: Path) -> dict[str, tuple[int, bool]]:
        return {path.name: (path.stat().st_ino, path.is_dir()) for path in folder.iterdir()}


class Moments:
    """What the disk held at a few moments of a run, all equally likely."""

    def __init__(self, count: int) -> None:
        self.count, self.seen = count, 0
        self.kept: list[dict[str, bytes]] = []

    def __call__(self, disk: DurableDisk) -> None:
        self.seen += 1
        if len(self.kept) < self.count:
            self.kept.append(disk.files())
        elif (place := random.randrange(self.seen)) < self.count:
            self.kept[place] = disk.files()


def put_back(files: Mapping[str, bytes], root: Path) -> None:
    """Write what a disk held, by path below `root`."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
