"""Images without a lesion, into which lesions are painted.

Node and synthesize.py share the rule by which one is chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .pictures import pixel_count, read_image

EDGE = 16  # pixels
WIDEST_EDGE = 512
MOST_PIXELS = 8192 * 4096  # of a background: it and the painted image are held in floats


@dataclass(frozen=True)
class Backgrounds:
    """Image files, and how many pixels wide the edge between them and a lesion is."""

    files: Sequence[Path]
    edge: int = EDGE

    def pixels_for(self, seed: int) -> np.ndarray:
        """The background (H, W, 3), uint8, of the image with that seed. Raises ValueError."""
        path = self.path_for(seed)
        if (pixels := pixel_count(path)) > MOST_PIXELS:
            raise ValueError(
                f"{path}: a background of {pixels / 1e6:.0f} million pixels; lesions are painted "
                f"into at most {MOST_PIXELS / 1e6:.0f} million. Scale it down"
            )
        return read_image(path)

    def path_for(self, seed: int) -> Path:
        return self.files[seed % len(self.files)]

    def fingerprint(self) -> str:
        """Changes with the names and their number, which decide who gets which."""
        names = "\0".join(path.name for path in self.files)
        return hashlib.sha256(names.encode()).hexdigest()
