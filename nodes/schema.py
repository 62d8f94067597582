"""What the nodes share: category, search aliases, seed and model file inputs, text on a node."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

CATEGORY = "Siamese-Diffusion"
MAX_SEED = 0xFFFFFFFFFFFFFFFF


def node_schema(*, search_aliases: Sequence[str] = (), **fields: Any) -> io.Schema:
    """A schema in the pack's category, with search aliases if this ComfyUI supports them."""
    if any(field.name == "search_aliases" for field in dataclasses.fields(io.Schema)):
        fields["search_aliases"] = list(search_aliases)
    return io.Schema(category=CATEGORY, **fields)


def seed_input(tooltip: str) -> io.Int.Input:
    """The seed, with the page's control that changes it after each run."""
    return io.Int.Input(
        "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip
    )


def file_input(name: str, folder: str, tooltip: str) -> io.Combo.Input:
    """A choice of the files in one of ComfyUI's model folders, updated at each refresh."""
    return io.Combo.Input(name, options=folder_paths.get_filename_list(folder), tooltip=tooltip)


def file_path(folder: str, name: str) -> Path:
    """Full path of a listed file. Raises FileNotFoundError when it no longer exists."""
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def show_text(unique_id: str, text: str) -> None:
    """Show a text on the node in the page; it stays until the node runs again."""
    from server import PromptServer  # only where a server runs, not in tests without one

    PromptServer.instance.send_progress_text(text, unique_id)


def file_fingerprint(folder: str, name: str) -> str:
    """A value that changes with the file, so that a changed file is loaded again."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return "missing"
    status = Path(path).stat()
    return f"{status.st_size} {status.st_mtime_ns}"
