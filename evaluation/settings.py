"""What decides the figures of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MULTIPLE = 32  # sides that both segmenters halve five times
LARGEST_DEFAULT = 256
SEGMENTERS = {
    "unet": "U-Net (MONAI BasicUNet, 2.0 M weights)",
    "fpn": "FPN on a ResNet-18 (segmentation-models-pytorch, 13 M weights)",
    "unet_small": "small U-Net (MONAI BasicUNet, 0.5 M weights)",
    "fpn_small": "small FPN on a MobileNetV3 (segmentation-models-pytorch, 0.7 M weights)",
}


@dataclass(frozen=True)
class Settings:
    """Defaults are for a real evaluation; `quick()` is for trying the command out.

    resolution: side in pixels to which every pair is stretched. seeds: trainings of each arm.
    ratios: synthetic pairs for each real one. steps: optimizer steps, the same for all arms.
    validations: how often a training is looked at to keep its best weights. draws: subsets a
    fidelity figure is the mean of. seed decides every random choice.
    """

    resolution: int = LARGEST_DEFAULT
    seed: int = 0
    seeds: int = 3
    segmenters: tuple[str, ...] = ("unet", "fpn")
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0)
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    validations: int = 10
    validation_share: float = 0.2
    draws: int = 50
    device: str = "cpu"

    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.device)


# A smoke run: every figure is computed, none means anything.
QUICK = {
    "segmenters": ("unet_small", "fpn_small"),
    "steps": 60,
    "batch_size": 8,
    "validations": 3,
    "draws": 10,
}
QUICK_RESOLUTION = 64


def default_resolution(largest_side: int, quick: bool) -> int:
    """The largest side of the real training images, as a multiple of 32, within bounds."""
    limit = QUICK_RESOLUTION if quick else LARGEST_DEFAULT
    return min(limit, -(-largest_side // MULTIPLE) * MULTIPLE)
