"""Lesion-like shapes: blobs with a star-shaped outline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OUTLINE_POINTS = 1024  # in steps of less than half a degree


@dataclass(frozen=True)
class Blob:
    """A blob whose outline, before stretching, is r(angle) = R (1 + sum of a cos(n angle + phase)).

    area: in pixels; it determines R. waves: (n, a, phase) of each term, each n once; the amplitudes
    a add up to less than 1. stretch: length over width. rotation: in radians.
    """

    area: float
    waves: Sequence[tuple[int, float, float]]
    stretch: float = 1.0
    rotation: float = 0.0

    def extent(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom end of the outline, in pixels from the blob's centre."""
        angle = np.linspace(0, 2 * np.pi, OUTLINE_POINTS)
        distance = self._outline(angle)
        along = distance * np.cos(angle) * np.sqrt(self.stretch)
        across = distance * np.sin(angle) / np.sqrt(self.stretch)
        x = along * np.cos(self.rotation) - across * np.sin(self.rotation)
        y = along * np.sin(self.rotation) + across * np.cos(self.rotation)
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def heights(self, width: int, height: int, centre: tuple[float, float]) -> np.ndarray:
        """(height, width), float32: how far inside the outline each pixel is, negative outside.

        In pixels, along the ray from the centre, before stretching. centre: (x, y), where (0, 0) is
        the middle of the first pixel.
        """
        x = np.arange(width, dtype=np.float32) - np.float32(centre[0])
        y = np.arange(height, dtype=np.float32)[:, None] - np.float32(centre[1])
        cosine, sine = np.float32(np.cos(self.rotation)), np.float32(np.sin(self.rotation))
        along = (x * cosine + y * sine) / np.float32(np.sqrt(self.stretch))
        across = (y * cosine - x * sine) * np.float32(np.sqrt(self.stretch))
        return self._outline(np.arctan2(across, along)) - np.hypot(along, across)

    def _outline(self, angle: np.ndarray) -> np.ndarray:
        """r(angle), in pixels."""
        # The integral of r^2 / 2 over all angles is pi R^2 (1 + sum of a^2 / 2).
        excess = sum(amplitude**2 for _, amplitude, _ in self.waves) / 2
        radius = np.sqrt(self.area / np.pi / (1 + excess))
        distance = np.ones_like(angle)
        for number, amplitude, phase in self.waves:
            distance += amplitude * np.cos(number * angle + phase)
        return distance * angle.dtype.type(radius)


def place_inside(blob: Blob, width: int, height: int, place: tuple[float, float]) -> np.ndarray:
    """Draw a blob that lies inside a mask (height, width), bool, without touching the border.

    place: (x, y), each from 0 (as far left or up as it can lie) to 1 (right or down). A blob that
    is wider or higher than the image is centred in that direction and cut off on both sides.
    """
    left, top, right, bottom = blob.extent()
    centre = (_centre(left, right, width, place[0]), _centre(top, bottom, height, place[1]))
    return blob.heights(width, height, centre) > 0


def _centre(low: float, high: float, length: int, place: float) -> float:
    """The centre that puts an outline from low to high, relative to it, inside the outer pixels."""
    # Half a pixel away from their middles, so that rounding errors cannot reach them.
    room = length - 2 - (high - low)
    return 0.5 + (place if room > 0 else 0.5) * room - low
