"""Images without a lesion, into which lesions are painted.

Node and synthesize.py share the rule by which one is chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .pictures import read_image

EDGE = 16  # pixels
WIDEST_EDGE = 512


@dataclass(frozen=True)
class Backgrounds:
    """Image files, and how many pixels wide the edge between them and a lesion is."""

    files: Sequence[Path]
    edge: int = EDGE

    def pixels_for(self, seed: int) -> np.ndarray:
        """The background (H, W, 3), uint8, of the image with that seed. Raises ValueError."""
        return read_image(self.files[seed % len(self.files)])

    def fingerprint(self) -> str:
        """Changes with the names and their number, which decide who gets which."""
        names = "\0".join(path.name for path in self.files)
        return hashlib.sha256(names.encode()).hexdigest()
