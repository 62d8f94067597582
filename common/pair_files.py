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

    def write(
        self, name: str, image: np.ndarray, mask: np.ndarray, metadata: PngInfo | None = None
    ) -> None:
        """Write what is missing of a pair, the mask first.

        image: (H, W, 3), uint8; mask: (H, W) or, for palette masks, (H, W, 3), uint8. An
        interrupted run leaves at most a mask without its image. metadata: for the image.
        """
        self.write_mask(name, mask)
        _save_missing(self.image(name), image, metadata)

    def write_mask(self, name: str, mask: np.ndarray) -> None:
        _save_missing(self.mask(name), mask, None)


def _save_missing(path: Path, pixels: np.ndarray, metadata: PngInfo | None) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=metadata)
