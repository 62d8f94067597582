"""Ordinary augmentation of real pairs: what synthetic ones have to beat."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.data import set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from torch import Tensor

BOTH = ("image", "mask")
set_track_meta(False)  # where a picture lies in space is not asked here, and costs half the time


class Augmentation:
    """Flips, quarter turns, small rotations, scale, shift, brightness, contrast and noise."""

    def __init__(self, seed: int) -> None:
        self.transform = Compose(
            [
                RandFlipd(BOTH, prob=0.5, spatial_axis=0),
                RandFlipd(BOTH, prob=0.5, spatial_axis=1),
                RandRotate90d(BOTH, prob=0.5),
                RandAffined(
                    BOTH,
                    prob=0.5,
                    rotate_range=math.radians(20),
                    scale_range=(0.2, 0.2),
                    mode=("bilinear", "nearest"),
                    padding_mode="reflection",
                ),
                RandScaleIntensityd("image", factors=0.2, prob=0.3),
                RandShiftIntensityd("image", offsets=0.1, prob=0.3),
                RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
                RandGaussianNoised("image", prob=0.2, std=0.03),
            ]
        )
        self.transform.set_random_state(seed)

    def __call__(self, images: np.ndarray, masks: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (B, H, W, 3), uint8, masks (B, H, W) -> (B, 3, H, W) in [0, 1], (B, 1, H, W)."""
        done = [
            self.transform(
                {
                    "image": torch.from_numpy(image).movedim(-1, 0).float() / 255,
                    "mask": torch.from_numpy(mask)[None].float(),
                }
            )
            for image, mask in zip(images, masks, strict=True)
        ]
        photos = torch.stack([pair["image"] for pair in done])
        cut = torch.stack([pair["mask"] for pair in done])
        return photos.clamp(0, 1), (cut > 0.5).float()
