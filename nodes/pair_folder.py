"""A folder of image-mask pairs as the trainer reads it: images/, masks/ and prompt.jsonl."""

from __future__ import annotations

import json
import re
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
    parse_line,
    write_prompt_jsonl,
)
from ..common.text import shown
from ..common.text_files import numbered_lines
from .folders import check_inside, check_length, relative_path
from .hints import binary_mask, check_finite
from .pictures import to_pixels

INDEX = "prompt.jsonl"
KEYWORD = re.compile(r"[ -~]{1,79}")  # of a text in a PNG
LONGEST_TEXT = 16 << 20  # Pillow reads no PNG with over 64 MiB of texts


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
        check_inside(folder / INDEX, folder, "the list of pairs")
        drop_half_line(folder / INDEX)
        targets = {entry.target for entry in self._entries()}
        self._listed = {target for target in targets if _exists(folder / target)}
        self._stale = targets - self._listed  # their images were deleted

    def image(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.png"

    def mask(self, name: str) -> Path:
        return self.folder / "masks" / f"{name}.png"

    def has(self, name: str) -> bool:
        """Whether the pair exists; a mask alone, left by an interrupted run, does not count.

        Raises ValueError for an image without its mask: writing the pair would overwrite it; and
        for a name that is too long to be written.
        """
        self._check_place(name)
        image, mask = self.image(name), self.mask(name)
        if image.exists() and not mask.exists():
            raise ValueError(
                f"{image}: its mask {mask} is missing, and no image is overwritten. Put the mask "
                "back, or move the image away to have the pair made again."
            )
        return image.exists()

    def _check_place(self, name: str) -> None:
        """Raise ValueError for a name that is too long, or behind a link that leads elsewhere."""
        check_length(name, "the pair's name")
        for path in (self.image(name), self.mask(name)):
            check_inside(path.parent, self.folder, "the pair's folder")

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
        self._check_place(name)
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
        where = str(index)
        try:
            for number, line in numbered_lines(index):
                where = f"{index}, line {number}"
                yield parse_line(line)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{where}: {error}. Repair or remove that line, or choose another folder."
            ) from error


def png_metadata(hidden: Any) -> PngInfo | None:
    """Prompt and workflow for a PNG, so that the page can open it; None with --disable-metadata.

    Raises ValueError for what a PNG cannot hold, or no reader would take.
    """
    if args.disable_metadata or hidden is None:
        return None
    extra = hidden.extra_pnginfo or {}
    if not isinstance(extra, dict):
        raise ValueError(f"extra_pnginfo is {shown(extra)}; expected an object such as the page's.")
    texts = {key: json.dumps(value) for key, value in extra.items()}
    if hidden.prompt:
        texts = {"prompt": json.dumps(hidden.prompt), **texts}
    metadata = PngInfo()
    for key, text in texts.items():
        if not (KEYWORD.fullmatch(key) and len(text) <= LONGEST_TEXT):
            raise ValueError(
                f"extra_pnginfo: {shown(key)} of {len(text)} bytes has no room in a PNG; expected "
                f"a name of at most 79 Latin letters and {LONGEST_TEXT} bytes. Leave it out, or "
                "start ComfyUI with --disable-metadata."
            )
        metadata.add_text(key, text)
    return metadata


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that may not be searched
        return False


def _save(path: Path, image: Tensor, metadata: PngInfo | None) -> None:
    """(H, W) or (H, W, 3) in [0, 1] -> an 8-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(to_pixels(image)).save(temporary, format="PNG", pnginfo=metadata)
