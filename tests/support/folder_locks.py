"""Locks of folders, held and looked at by other processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .paths import ROOT

BEGINNING = """\
import importlib.util, os, sys
root, folder, name, fork = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "siamese_diffusion", root + "/__init__.py", submodule_search_locations=[root])
module = sys.modules["siamese_diffusion"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pathlib import Path
from siamese_diffusion.common.errors import MessageError
from siamese_diffusion.common.folder_lock import FolderLock
lock = FolderLock(Path(folder), name, "--out", "test", MessageError)
"""
HOLDER = (
    BEGINNING
    + """\
with lock.hold():
    if fork == "fork" and os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""
)
LOOKER = (
    BEGINNING
    + """\
try:
    lock.check()
    print("free")
except MessageError:
    print("held")
"""
)


def hold(folder: Path, name: str, fork: str = "") -> subprocess.Popen[str]:
    """A process that holds the folder until its input is closed, as at the end of `with`."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ROOT), str(folder), name, fork],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def looked_at(folder: Path, name: str) -> str:
    """ "held" or "free", as another process sees it."""
    command = [sys.executable, "-c", LOOKER, str(ROOT), str(folder), name, ""]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
