"""How an image gets its training size, stretched or cropped, and how it is augmented."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...common.pictures import Size
from ..config import TrainConfig
from ..errors import ConfigError


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


def shrunk_size(original: Size, area: int, step: int) -> Size:
    """What sd-scripts scales an image to with bucket_no_upscale, before it is cropped.

    An image of at most `area` pixels keeps its size. A larger one gets about that area, with the
    side a multiple of `step` that changes its aspect less.
    """
    if original[0] * original[1] <= area:
        return original
    aspect = original[0] / original[1]

    def rounded(side: float) -> int:
        return int(side + 0.5) // step * step

    width = math.sqrt(area * aspect)
    height = area / width
    by_width, by_height = rounded(width), rounded(height)
    beside_width, beside_height = rounded(by_width / aspect), rounded(by_height * aspect)
    width_error = abs(by_width / max(beside_width, 1) - aspect)
    if width_error < abs(beside_height / max(by_height, 1) - aspect):
        return by_width, int(by_width / aspect + 0.5)
    return int(by_height * aspect + 0.5), by_height


@dataclass(frozen=True)
class Framing:
    """The training sizes, and the augmentations.

    size: what every image is stretched to, unless there are buckets.
    buckets: an image takes the one nearest in aspect, is scaled to cover it and centre-cropped.
    no_upscale: a number instead of buckets: an image is only made smaller, to about the area of
    `size`, and its sides are cropped to multiples of it; 0: not so.
    flip: left to right, half of the time. rotate: by 0, 90, 180 or 270 degrees; by 0 or 180 where
    width and height differ.
    """

    size: Size
    buckets: tuple[Size, ...] = ()
    flip: bool = False
    rotate: bool = False
    no_upscale: int = 0

    @classmethod
    def of(cls, config: TrainConfig) -> Framing:
        """What the flags say."""
        buckets: tuple[Size, ...] = ()
        no_upscale = 0
        if config.enable_bucket and config.bucket_no_upscale:
            no_upscale = config.bucket_reso_steps
        elif config.enable_bucket:
            low, high, step = (
                config.min_bucket_reso,
                config.max_bucket_reso,
                config.bucket_reso_steps,
            )
            buckets = bucket_sizes(config.size, low, high, step)
        return cls(config.size, buckets, config.flip_aug, config.random_rotate90, no_upscale)

    def training_size(self, original: Size) -> Size:
        """The size at which an image of this size is trained; a bucket's by sd-scripts' rule.

        Raises ConfigError for an image that has no such size.
        """
        if self.no_upscale:
            return self._cropped_size(original)
        if not self.buckets:
            return self.size
        if original in self.buckets:
            return original
        aspect = original[0] / original[1]
        return min(self.buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - aspect))

    def _cropped_size(self, original: Size) -> Size:
        step = self.no_upscale
        width, height = shrunk_size(original, self.size[0] * self.size[1], step)
        if width < step or height < step:
            raise ConfigError(
                f"--bucket_no_upscale: an image of {original[0]}x{original[1]} would be cropped to "
                f"nothing; expected sides of at least --bucket_reso_steps {step}. Lower that, or "
                "leave --bucket_no_upscale out."
            )
        return width // step * step, height // step * step

    def without_augmentations(self) -> Framing:
        return replace(self, flip=False, rotate=False)

    @property
    def name(self) -> str:
        """How images get their training size, for cache keys."""
        if self.no_upscale:
            return "shrink"
        return "crop" if self.buckets else "stretch"

    def _box(self, original: Size, size: Size) -> tuple[float, float, float, float] | None:
        """The part of an image that is scaled to `size`; None: all of it."""
        if self.no_upscale:
            shrunk = shrunk_size(original, self.size[0] * self.size[1], self.no_upscale)
            return crop_box(original, (size[0] / shrunk[0], size[1] / shrunk[1]))
        return cover_box(original, size) if self.buckets else None

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
        box = self._box(original, size)
        return (
            np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box)),
            np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST, box)),
        )


def cover_box(original: Size, size: Size) -> tuple[float, float, float, float]:
    """The centred part of an image with the aspect of `size`: left, top, right, bottom."""
    scale = min(original[0] / size[0], original[1] / size[1])
    return crop_box(original, (size[0] * scale / original[0], size[1] * scale / original[1]))


def crop_box(original: Size, share: tuple[float, float]) -> tuple[float, float, float, float]:
    """The centred part of an image with that share of its width and of its height."""
    width, height = share[0] * original[0], share[1] * original[1]
    left, top = max(0.0, (original[0] - width) / 2), max(0.0, (original[1] - height) / 2)
    # Rounding must not put the box a hair outside the image.
    return left, top, min(left + width, original[0]), min(top + height, original[1])


def augment(image: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """An image or a mask (H, W[, C]) rotated, then flipped left to right."""
    rotated = np.rot90(image, augmentation.rotations)
    return rotated[:, ::-1] if augmentation.flip else rotated
