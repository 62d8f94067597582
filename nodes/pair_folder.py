"""A folder of image-mask pairs as the trainer reads it: images/, masks/ and prompt.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comfy.cli_args import args
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional

from ..common.files import replacing
from ..common.prompt_jsonl import (
    Entry,
    append_entry,
    drop_half_line,
    numbered_lines,
    parse_line,
    write_prompt_jsonl,
)
from .folders import relative_path
from .hints import binary_mask, check_finite
from .pictures import to_pixels

INDEX = "prompt.jsonl"


class PairFolder:
    """Writes pairs to a folder; existing files are not changed.

    A pair's name is its path below images/ and masks/, without extension. Each file is written
    under a temporary name and then renamed: first the mask, then the image; then the pair is listed
    in prompt.jsonl. An interrupted run leaves at most a mask without its image,
    and half a line, which the next one removes.
    """

    def __init__(self, folder: Path, metadata: PngInfo | None = None) -> None:
        self.folder = folder
        self.metadata = metadata
        drop_half_line(folder / INDEX)
        targets = {entry.target for entry in self._entries()}
        self._listed = {target for target in targets if (folder / target).exists()}
        self._stale = targets - self._listed  # their images were deleted

    def image(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.png"

    def mask(self, name: str) -> Path:
        return self.folder / "masks" / f"{name}.png"

    def has(self, name: str) -> bool:
        """Whether the pair exists; a mask alone, left by an interrupted run, does not count.

        Raises ValueError for an image without its mask: writing the pair would overwrite it.
        """
        image, mask = self.image(name), self.mask(name)
        if image.exists() and not mask.exists():
            raise ValueError(
                f"{image}: its mask {mask} is missing, and no image is overwritten. Put the mask "
                "back, or move the image away to have the pair made again."
            )
        return image.exists()

    def free_name(self, stem: str) -> str:
        """`stem`, or with the first number from 2 whose name is free: `stem`_2, `stem`_3, ..."""
        stem = str(relative_path(stem, "stem"))
        name, number = stem, 1
        while self.image(name).exists() or self.mask(name).exists():
            number += 1
            name = f"{stem}_{number}"
        return name

    def write(self, name: str, image: Tensor, mask: Tensor, prompt: str) -> None:
        """Write image (H, W, 3) in [0, 1] and its mask (1, h, w), stretched to the image's size.

        The mask's file has one channel with the values 0 and 255. Raises ValueError, and writes
        neither, for an image that is not finite.
        """
        check_finite(image, f"{self.image(name)}: not saved. The image")
        mask = functional.interpolate(
            binary_mask(mask)[:, None], image.shape[:2], mode="nearest-exact"
        )
        _save(self.mask(name), mask[0, 0], None)
        _save(self.image(name), image, self.metadata)
        self.list(name, prompt)

    def list(self, name: str, prompt: str) -> None:
        """Add the pair to prompt.jsonl unless it is listed; replace the line of a deleted image."""
        target = f"images/{name}.png"
        if target in self._listed:
            return
        index = self.folder / INDEX
        if target in self._stale:
            others = (entry for entry in self._entries() if entry.target != target)
            write_prompt_jsonl(index, [*others])
            self._stale.remove(target)
        append_entry(index, Entry(f"masks/{name}.png", target, prompt))
        self._listed.add(target)

    def _entries(self) -> Iterator[Entry]:
        """The lines of prompt.jsonl. Raises ValueError for one that is not valid."""
        index = self.folder / INDEX
        if not index.exists():
            return
        for number, line in numbered_lines(index):
            try:
                yield parse_line(line)
            except ValueError as error:
                raise ValueError(
                    f"{index}, line {number}: {error}. Repair or remove that line, or choose "
                    "another folder."
                ) from error


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


def _save(path: Path, image: Tensor, metadata: PngInfo | None) -> None:
    """(H, W) or (H, W, 3) in [0, 1] -> an 8-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(to_pixels(image)).save(temporary, format="PNG", pnginfo=metadata)
