"""A folder of image-mask pairs as the trainer reads it: images/, masks/ and prompt.jsonl."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comfy.cli_args import args
from einops import rearrange
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional

from ..common.files import sync, sync_upwards
from ..common.pair_files import PairFiles
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
FOLDERS_KEPT = 16  # whose lists are in memory
KEYWORD = re.compile(r"[ -~]{1,79}")  # of a text in a PNG
LONGEST_TEXT = 16 << 20  # Pillow reads no PNG with over 64 MiB of texts

State = tuple[int, int] | None  # size and mtime of a file; None where there is none


class PairFolder:
    """Writes pairs to a folder; existing files are not changed.

    A pair's name is its path below images/ and masks/, without extension. Each file is written
    under a temporary name and then renamed: first the mask, then the image; then the pair is listed
    in prompt.jsonl. An interrupted run leaves at most a mask without its image,
    and half a line, which the next one removes.

    Within `with`: at its end what was written is on the disk, and outlives a loss of power.
    """

    def __init__(self, folder: Path, metadata: PngInfo | None = None) -> None:
        self.folder = folder
        self.metadata = metadata
        check_inside(folder / INDEX, folder, "the list of pairs")
        drop_half_line(folder / INDEX)
        self.files = PairFiles(folder)
        self._known = _known(folder)
        self._changed: set[Path] = set()  # folders with new names

    def __enter__(self) -> PairFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            sync(self.folder / INDEX)
        sync_upwards(self._changed, self.folder.parent)
        self._changed.clear()

    def image(self, name: str) -> Path:
        return self.files.image(name)

    def mask(self, name: str) -> Path:
        return self.files.mask(name)

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
        """`stem`, or with a number from 2 whose name is free: `stem`_2, `stem`_3, ...

        Numbers that were given before are not tried again.
        """
        stem = str(relative_path(stem, "stem"))
        name = stem
        while self.image(name).exists() or self.mask(name).exists():
            self._known.numbers[stem] += 1
            name = f"{stem}_{self._known.numbers[stem]}"
        return name

    def write(self, name: str, image: Tensor, mask: Tensor, prompt: str) -> None:
        """Write image (H, W, 3) in [0, 1] and its mask, stretched to the image's size.

        mask: (1, h, w), in whose file are 0 and 255; or, of a palette, (1, h, w, 3). A mask that an
        interrupted run has left is replaced. Raises ValueError, and writes neither, for an image
        that is not finite.
        """
        self._check_place(name)
        check_finite(image, f"{self.image(name)}: not saved. The image")
        self._forget(name)
        channels = (
            rearrange(mask, "1 h w c -> 1 c h w") if mask.ndim == 4 else binary_mask(mask)[:, None]
        )
        resized = functional.interpolate(channels, image.shape[:2], mode="nearest-exact")
        pixels = to_pixels(rearrange(resized, "1 c h w -> h w c"))
        grey = pixels.shape[-1] == 1
        self.files.write_mask(name, pixels[..., 0] if grey else pixels)
        self.files.write_image(name, to_pixels(image), self.metadata)
        self.list(name, prompt)

    def _forget(self, name: str) -> None:
        """Remove the line of an image that was deleted: it may have another caption now."""
        target = self.files.target(name)
        if target in self._known.targets and not self.image(name).exists():
            others = (entry for entry in _entries(self.folder) if entry.target != target)
            write_prompt_jsonl(self.folder / INDEX, [*others])
            self._known.targets.remove(target)

    def list(self, name: str, prompt: str) -> None:
        """Add the pair to prompt.jsonl unless it is listed."""
        target = self.files.target(name)
        if target not in self._known.targets:
            append_entry(self.folder / INDEX, Entry(self.files.source(name), target, prompt))
            self._known.targets.add(target)
            self._changed |= {self.image(name).parent, self.mask(name).parent}
        self._known.state = _state(self.folder)


@dataclass
class Known:
    """What is known of a folder, so that saving a pair takes no longer the more there are.

    state: of the list that this was read from. numbers: the last one given to each stem.
    """

    state: State
    targets: set[str]
    numbers: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: 1))


_folders: dict[Path, Known] = {}


def _known(folder: Path) -> Known:
    """What is known of a folder; read again where others have changed its list.

    Raises ValueError for a line that is not valid.
    """
    known = _folders.pop(folder, None)
    if known is None or known.state != _state(folder):
        known = Known(_state(folder), {entry.target for entry in _entries(folder)})
    _folders[folder] = known  # the last one used comes last
    while len(_folders) > FOLDERS_KEPT:
        _folders.pop(next(iter(_folders)))
    return known


def _state(folder: Path) -> State:
    try:
        found = (folder / INDEX).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _entries(folder: Path) -> Iterator[Entry]:
    """The lines of prompt.jsonl. Raises ValueError for one that is not valid."""
    index = folder / INDEX
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
