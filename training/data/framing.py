"""How a picture becomes one of training size: stretched or cropped, flipped and turned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...common.pictures import Size
from ..config import TrainConfig

Variant = tuple[bool, int]  # (mirrored, quarter turns counter-clockwise before that)
AS_IT_IS: Variant = (False, 0)


def bucket_sizes(size: Size, smallest: int, largest: int, step: int) -> tuple[Size, ...]:
    """sd-scripts' buckets: sides are multiples of `step` in a range, areas at most `size`'s.

    Like there, a range that does not fit the step is widened to the next multiples.
    """
    area = size[0] * size[1]
    smallest, largest = smallest // step * step, math.ceil(largest / step) * step
    side = math.isqrt(area) // step * step
    found = {(side, side)}
    for width in range(max(smallest, step), largest + 1, step):
        height = min(area // width // step * step, largest)
        if height >= max(smallest, step):
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

    @classmethod
    def of(cls, config: TrainConfig) -> Framing:
        """What the flags say."""
        buckets: tuple[Size, ...] = ()
        if config.enable_bucket:
            low, high, step = (
                config.min_bucket_reso,
                config.max_bucket_reso,
                config.bucket_reso_steps,
            )
            buckets = bucket_sizes(config.size, low, high, step)
        return cls(config.size, buckets, config.flip_aug, config.random_rotate90)

    def training_size(self, picture: Size) -> Size:
        """The size at which a picture of this size is trained; a bucket's by sd-scripts' rule."""
        if not self.buckets:
            return self.size
        if picture in self.buckets:
            return picture
        aspect = picture[0] / picture[1]
        return min(self.buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - aspect))

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
