"""Images of less contrast, at random: what a generator of few labels does not make by itself.

Where labelled images are few, sampled ones are about as bright as these, and a segmenter that
trains on them may miss dim lesions (docs/evidence.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

LEAST = 0.05  # share of its contrast that leaves something to see


def with_random_contrast(
    images: Tensor, masks: Tensor, seeds: Sequence[int], least: float
) -> Tensor:
    """Images (B, 3, H, W) in [0, 1], each with a share of its contrast, from `least` to 1.

    An image's seed decides its share. Its colours move towards their median outside the mask
    (B, C, h, w), in [0, 1] and of any size; towards that of all where nothing is outside. With
    least = 1 images stay as they are.
    """
    if least == 1:
        return images
    stretched = functional.interpolate(masks.to(images), images.shape[-2:], mode="nearest-exact")
    insides = stretched.gt(0.5).any(1)
    found = [
        _with_share(image, inside, random.Random(f"contrast {seed}").uniform(least, 1))
        for image, inside, seed in zip(images, insides, seeds, strict=True)
    ]
    return torch.stack(found)


def _with_share(image: Tensor, inside: Tensor, share: float) -> Tensor:
    outside = image[:, ~inside] if not inside.all() else image.flatten(1)
    floor = outside.float().median(1).values.to(image)[:, None, None]
    return floor + share * (image - floor)
