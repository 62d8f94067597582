"""How a picture becomes one of training size: stretched or cropped, flipped and turned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

Size = tuple[int, int]  # (width, height) in pixels
Variant = tuple[bool, int]  # (mirrored, quarter turns counter-clockwise before that)
AS_IT_IS: Variant = (False, 0)


def bucket_sizes(size: Size, smallest: int, largest: int, step: int) -> tuple[Size, ...]:
    """`size` itself, and sizes of at most its area: sides are multiples of `step` in a range."""
    area = size[0] * size[1]
    found = {size}
    for width in range(math.ceil(smallest / step) * step, largest + 1, step):
        height = min(area // width, largest) // step * step
        if height >= smallest:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


@dataclass(frozen=True)
class Framing:
    """The training sizes and the ways to show a picture.

    size: what every picture is stretched to, unless there are buckets.
    buckets: a picture takes the one nearest in aspect, is scaled to cover it and centre-cropped.
    flip: mirrored half of the time. rotate: turned by 0, 90, 180 or 270 degrees; by 0 or 180 where
    width and height differ.
    """

    size: Size
    buckets: tuple[Size, ...] = ()
    flip: bool = False
    rotate: bool = False

    def training_size(self, picture: Size) -> Size:
        """The size at which a picture of this size is trained."""
        if not self.buckets:
            return self.size
        aspect = math.log(picture[0] / picture[1])
        return min(self.buckets, key=lambda b: (abs(math.log(b[0] / b[1]) - aspect), -b[0] * b[1]))

    def variants(self, size: Size) -> list[Variant]:
        """Every way a picture of this training size may be shown."""
        turns = range(0, 4, 1 if size[0] == size[1] else 2) if self.rotate else (0,)
        return [
            (flip, turn) for flip in ((False, True) if self.flip else (False,)) for turn in turns
        ]

    def resize(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) linearly and mask (H, W[, 3]) by nearest neighbour to training size."""
        picture = (image.shape[1], image.shape[0])
        size = self.training_size(picture)
        if picture == size:
            return image, mask
        box = cover_box(picture, size) if self.buckets else None
        return (
            np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box)),
            np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST, box)),
        )


def cover_box(picture: Size, size: Size) -> tuple[float, float, float, float]:
    """The centred part of a picture with the aspect of `size`: left, top, right, bottom."""
    scale = min(picture[0] / size[0], picture[1] / size[1])
    width, height = size[0] * scale, size[1] * scale
    left, top = max(0.0, (picture[0] - width) / 2), max(0.0, (picture[1] - height) / 2)
    # Rounding must not put the box a hair outside the picture.
    return left, top, min(left + width, picture[0]), min(top + height, picture[1])


def show(picture: np.ndarray, variant: Variant) -> np.ndarray:
    """A picture (H, W[, C]) turned, then mirrored."""
    mirrored, turns = variant
    turned = np.rot90(picture, turns)
    return turned[:, ::-1] if mirrored else turned
