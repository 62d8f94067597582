"""Folders below ComfyUI's input and output folders, and the masks in them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import folder_paths
import numpy as np
import torch
from torch import Tensor

from ..common.mask_files import picture_files, read_mask_of
from ..common.natural_order import natural
from ..common.text import shortened, shown

# Not allowed in file names on Windows, where the dataset may be copied.
FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f]')
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # neither
LONGEST_NAME = 200  # bytes; file systems take 255, and names get a number and an ending
LONGEST_PATH = 1000


def relative_path(text: str, what: str) -> PurePosixPath:
    """Check a relative path: joined to a folder, it must stay below it.

    Raises ValueError for an empty or absolute path, one with "..", hidden names, names that are too
    long, or names and characters that are not allowed on every system; `what` names it in the
    message.
    """
    path = PurePosixPath(text.strip().replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or FORBIDDEN.search(str(path)):
        raise ValueError(
            f"{what} is {shown(text)}; expected a name or a relative path such as "
            "'siamese/polyps', "
            'without "..", a drive or any of < > : " | ? *'
        )
    if any(part.startswith(".") for part in path.parts):  # no reader of datasets looks at these
        raise ValueError(f"{what} is {shown(text)}; expected names that begin with no dot")
    if any(DEVICES.fullmatch(part) or part[-1] in ". " for part in path.parts):
        raise ValueError(
            f"{what} is {shown(text)}; expected names that Windows takes too: none such as CON or "
            "NUL, and no dot or blank at the end"
        )
    check_length(str(path), what)
    return path


def check_length(path: str, what: str) -> None:
    """Raise ValueError for a relative path that file systems have no room for."""
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in path.split("/")]
    if max(sizes) > LONGEST_NAME or sum(sizes) > LONGEST_PATH:
        raise ValueError(
            f"{what} is {shown(path)}, a name of {max(sizes)} bytes; at most {LONGEST_NAME} are "
            f"written, and {LONGEST_PATH} for all folders together. Give a shorter name."
        )


def check_inside(path: Path, root: Path, what: str) -> None:
    """Raise ValueError where a link leads out of one of ComfyUI's folders."""
    # Not Path.resolve, which fails on a link to itself.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise ValueError(
            f"{what} {shown(path.name)} is, or lies behind, a link that leads out of {root}. Copy "
            "the files there instead of linking to them."
        )


def input_folder(name: str) -> Path:
    """A folder below ComfyUI's input folder. Raises ValueError when there is none of that name."""
    root = Path(folder_paths.get_input_directory())
    folder = root / relative_path(name, "folder")
    if not folder.is_dir():
        known = sorted((f.name for f in root.iterdir() if f.is_dir()), key=natural)
        found = (
            f"Choose one of its folders: {shortened(', '.join(known[:10]))}"
            if known
            else "It has no folders: copy one there"
        )
        raise ValueError(f"No folder {shown(name)} in ComfyUI's input folder ({root}). {found}.")
    check_inside(folder, root, "folder")
    return folder


def input_file(name: str) -> Path:
    """A file below ComfyUI's input folder. Raises ValueError when there is none of that name."""
    root = Path(folder_paths.get_input_directory())
    path = root / relative_path(name, "file")
    if not path.is_file():
        raise ValueError(
            f"No file {shown(name)} in ComfyUI's input folder ({root}). Check the name."
        )
    check_inside(path, root, "file")
    return path


def output_folder(name: str) -> Path:
    """A folder below ComfyUI's output folder; it need not exist. Raises ValueError."""
    root = Path(folder_paths.get_output_directory())
    folder = root / relative_path(name, "folder")
    check_inside(folder, root, "folder")
    return folder


def image_files(folder: Path, subfolders: bool) -> dict[str, Path]:
    """As `picture_files`; ValueError also for a file that leads out of ComfyUI's input folder."""
    files = picture_files(folder, subfolders)
    for path in files.values():
        if path.is_symlink():
            check_inside(path, Path(folder_paths.get_input_directory()), "file")
    return files


def choose(files: Mapping[str, Path], start: int, count: int) -> dict[str, Path]:
    """`count` files from index `start` on; 0 for all of them.

    Raises ValueError when there is none at `start`.
    """
    if start >= len(files):
        raise ValueError(
            f"start is {start}; the {len(files)} masks are numbered from 0 to {len(files) - 1}. "
            "Set it to one of these."
        )
    stop = start + count if count else None
    return dict(list(files.items())[start:stop])


def input_file_fingerprint(name: str | None) -> str | float:
    """A value that changes when the file is written again; the empty name has none.

    NaN, which always counts as a change, while ComfyUI does not know a linked input (None).
    """
    if name is None:
        return float("nan")
    if not name.strip():
        return ""
    try:
        state = input_file(name).stat()
    except (ValueError, OSError) as error:
        return str(error)  # running the node reports it
    return f"{state.st_size} {state.st_mtime_ns}"


def folder_fingerprint(name: str | None, subfolders: bool | None) -> str | float:
    """A value that changes when an image in the folder is added, removed or written again.

    NaN, which always counts as a change, while ComfyUI does not know a linked input (None).
    """
    if name is None or subfolders is None:
        return float("nan")
    try:
        files = image_files(input_folder(name), subfolders).values()
        states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    except (ValueError, OSError) as error:
        return str(error)  # running the node reports it
    return hashlib.sha256(repr(states).encode()).hexdigest()


def read_mask(path: Path, classes: Mapping[str, str] | None = None) -> Tensor:
    """A mask file -> (1, H, W) of zeros and ones, as training reads it.

    classes: those of weights trained on palette masks; then (1, H, W, 3) in [0, 1]. Raises
    ValueError.
    """
    mask = read_mask_of(classes or {}, path)
    return torch.from_numpy(mask.astype(np.float32) / (1 if mask.dtype == bool else 255))[None]
