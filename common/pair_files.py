"""The picture files of a folder of pairs: images/NAME.png and masks/NAME.png."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .files import replacing
from .items import hash_number

IMAGES, MASKS = "images", "masks"
PREFIXES = 16**3  # folders, named by three hexadecimal digits


@dataclass(frozen=True)
class PairFiles:
    """Where a pair's files are, and the one place where they are written.

    A pair's name is its path below images/ and masks/, without extension. by_prefix: in a folder by
    the hash of the name, for more pairs than one folder bears.
    """

    folder: Path
    by_prefix: bool = False

    def target(self, name: str) -> str:
        """The image, relative to the folder, as prompt.jsonl names it."""
        return f"{IMAGES}/{self._relative(name)}"

    def source(self, name: str) -> str:
        """The mask, relative to the folder, as prompt.jsonl names it."""
        return f"{MASKS}/{self._relative(name)}"

    def image(self, name: str) -> Path:
        return self.folder / self.target(name)

    def mask(self, name: str) -> Path:
        return self.folder / self.source(name)

    def _relative(self, name: str) -> str:
        prefix = f"{hash_number(name) % PREFIXES:03x}/" if self.by_prefix else ""
        return f"{prefix}{name}.png"

    def write_mask(self, name: str, mask: np.ndarray) -> None:
        """(H, W) or, of a palette, (H, W, 3), uint8. It comes before its image: a pair is whole
        where there is an image."""
        _save(self.mask(name), mask, None)

    def write_image(self, name: str, image: np.ndarray, metadata: PngInfo | None = None) -> None:
        """(H, W, 3), uint8."""
        _save(self.image(name), image, metadata)


def _save(path: Path, pixels: np.ndarray, metadata: PngInfo | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # To wait for each name would take time; whoever says that pairs are saved waits for them all.
    with replacing(path, sync_name=False) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=metadata)
