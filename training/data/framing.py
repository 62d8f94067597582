"""How an image gets its training size, stretched or cropped, and how it is augmented."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...common.pictures import Size
from ..config import TrainConfig


class Augmentation(NamedTuple):
    """What is done to an image and its mask: rotated first, then flipped left to right.

    rotations: by 90 degrees counter-clockwise, 0 to 3.
    """

    flip: bool
    rotations: int


NOT_AUGMENTED = Augmentation(flip=False, rotations=0)


def bucket_sizes(size: Size, smallest: int, largest: int, step: int) -> tuple[Size, ...]:
    """sd-scripts' buckets: sides are multiples of `step` in a range, areas at most `size`'s.

    As in sd-scripts, a range that does not fit the step is widened to the next multiples.
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
    """The training sizes, and the augmentations.

    size: what every image is stretched to, unless there are buckets.
    buckets: an image takes the one nearest in aspect, is scaled to cover it and centre-cropped.
    flip: left to right, half of the time. rotate: by 0, 90, 180 or 270 degrees; by 0 or 180 where
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

    def training_size(self, original: Size) -> Size:
        """The size at which an image of this size is trained; a bucket's by sd-scripts' rule."""
        if not self.buckets:
            return self.size
        if original in self.buckets:
            return original
        aspect = original[0] / original[1]
        return min(self.buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - aspect))

    def augmentations(self, size: Size) -> list[Augmentation]:
        """Every augmentation of an image of this training size, which all keep its size."""
        flips = (False, True) if self.flip else (False,)
        rotations = range(0, 4, 1 if size[0] == size[1] else 2) if self.rotate else (0,)
        return [Augmentation(flip, number) for flip in flips for number in rotations]

    def resize(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) linearly and mask (H, W[, 3]) by nearest neighbour to training size."""
        original = (image.shape[1], image.shape[0])
        size = self.training_size(original)
        if original == size:
            return image, mask
        box = cover_box(original, size) if self.buckets else None
        return (
            np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box)),
            np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST, box)),
        )


def cover_box(original: Size, size: Size) -> tuple[float, float, float, float]:
    """The centred part of an image with the aspect of `size`: left, top, right, bottom."""
    scale = min(original[0] / size[0], original[1] / size[1])
    width, height = size[0] * scale, size[1] * scale
    left, top = max(0.0, (original[0] - width) / 2), max(0.0, (original[1] - height) / 2)
    # Rounding must not put the box a hair outside the image.
    return left, top, min(left + width, original[0]), min(top + height, original[1])


def augment(image: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """An image or a mask (H, W[, C]) rotated, then flipped left to right."""
    rotated = np.rot90(image, augmentation.rotations)
    return rotated[:, ::-1] if augmentation.flip else rotated
