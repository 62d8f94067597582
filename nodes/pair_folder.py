"""A folder of image-mask pairs as the trainer reads it: images/, masks/ and prompt.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from comfy.cli_args import args
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional

from .folders import relative_path
from .masks import binary_mask

INDEX = "prompt.jsonl"


class PairFolder:
    """Writes pairs; what is already in the folder stays as it is.

    A pair's name is its path below images/ and masks/, without extension. Each file is written
    under a temporary name and then renamed, and a pair is listed in prompt.jsonl when both are
    there, so that an interrupted run leaves nothing half done.
    """

    def __init__(self, folder: Path, metadata: PngInfo | None = None) -> None:
        self.folder = folder
        self.metadata = metadata
        self._listed = self._read_index()

    def image(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.png"

    def mask(self, name: str) -> Path:
        return self.folder / "masks" / f"{name}.png"

    def __contains__(self, name: str) -> bool:
        return self.image(name).exists() and self.mask(name).exists()

    def free_name(self, stem: str) -> str:
        """`stem`, or `stem` with the first number from 2 that nothing is called yet."""
        stem = str(relative_path(stem, "stem"))
        name, number = stem, 1
        while self.image(name).exists() or self.mask(name).exists():
            number += 1
            name = f"{stem}_{number}"
        return name

    def write(self, name: str, image: Tensor, mask: Tensor, prompt: str) -> None:
        """Write image (H, W, 3) in [0, 1] and its mask (1, h, w), stretched to the image's size.

        The mask's file holds 0 and 255 only, in one channel.
        """
        mask = functional.interpolate(
            binary_mask(mask)[:, None], image.shape[:2], mode="nearest-exact"
        )
        _save(self.mask(name), mask[0, 0], None)
        _save(self.image(name), image, self.metadata)
        self.list(name, prompt)

    def list(self, name: str, prompt: str) -> None:
        """Add the pair to prompt.jsonl, unless it is there."""
        target = f"images/{name}.png"
        if target in self._listed:
            return
        entry = {"source": f"masks/{name}.png", "target": target, "prompt": prompt}
        index = self.folder / INDEX
        whole = not index.exists() or index.read_bytes()[-1:] in (b"", b"\n")
        with index.open("a", encoding="utf-8", newline="\n") as file:
            file.write(("" if whole else "\n") + json.dumps(entry, ensure_ascii=False) + "\n")
        self._listed.add(target)

    def _read_index(self) -> set[str]:
        """The images in prompt.jsonl. Raises ValueError for a line that is no JSON object."""
        index = self.folder / INDEX
        if not index.exists():
            return set()
        listed = set()
        for number, line in enumerate(index.read_text("utf-8-sig").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                listed.add(json.loads(line)["target"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{index}, line {number}: not a JSON object with a 'target' ({error}). Repair "
                    "or remove that line, or choose another folder."
                ) from error
        return listed


def png_metadata(hidden: Any) -> PngInfo | None:
    """Prompt and workflow for a PNG, so that the page can open it; None with --disable-metadata."""
    if args.disable_metadata or hidden is None:
        return None
    metadata = PngInfo()
    if hidden.prompt:
        metadata.add_text("prompt", json.dumps(hidden.prompt))
    for key, value in (hidden.extra_pnginfo or {}).items():
        metadata.add_text(key, json.dumps(value))
    return metadata


def _save(path: Path, pixels: Tensor, metadata: PngInfo | None) -> None:
    """(H, W) or (H, W, 3) in [0, 1] -> an 8-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels.cpu().mul(255).round().clamp(0, 255).numpy().astype(np.uint8)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        Image.fromarray(array).save(temporary, format="PNG", pnginfo=metadata)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
