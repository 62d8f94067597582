"""The segmentation networks: MONAI's U-Net, and an FPN of segmentation-models-pytorch.

All start from random weights: no pretraining that another arm would not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

BATCH = 64  # images at a time where no gradient is needed


def _fpn(encoder: str, channels: int) -> nn.Module:
    # Its group norm has 32 groups: with a channel each, a map of one pixel would always become 0.
    return smp.FPN(
        encoder,
        encoder_weights=None,
        decoder_pyramid_channels=channels,
        decoder_segmentation_channels=max(64, channels // 2),
    )


SEGMENTERS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: BasicUNet(2, 3, 1, features=(32, 32, 64, 128, 256, 32)),
    "fpn": lambda: _fpn("resnet18", 256),
    "unet_small": lambda: BasicUNet(2, 3, 1, features=(16, 16, 32, 64, 128, 16)),
    "fpn_small": lambda: _fpn("tu-tf_mobilenetv3_small_minimal_100", 64),
}


class Segmenter(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> logits (B, 1, H, W). H and W must be multiples of 32.

    Colours are normalised with the real training images' mean and deviation, for all arms alike.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = SEGMENTERS[name]()
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)

    def features(self, images: Tensor) -> Tensor:
        """What the encoder sees, averaged over the picture: (B, D), all levels side by side."""
        levels = self._levels((images - self.mean) / self.std)
        return torch.cat([level.mean((-2, -1)) for level in levels], dim=1)

    def _levels(self, normalised: Tensor) -> list[Tensor]:
        network: Any = self.network
        if not isinstance(network, BasicUNet):
            return network.encoder(normalised)[1:]
        levels = [network.conv_0(normalised)]
        for down in (network.down_1, network.down_2, network.down_3, network.down_4):
            levels.append(down(levels[-1]))
        return levels[1:]


def colour_statistics(images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, of images (N, H, W, 3), uint8, in [0, 1]."""
    values = images.reshape(-1, 3) / np.float32(255)
    mean, std = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    return torch.tensor(mean).float(), torch.tensor(np.maximum(std, 1 / 255)).float()


def as_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """Images (N, H, W, 3), uint8 -> (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).to(device).movedim(-1, 1).float() / 255


@torch.inference_mode()
def predict(segmenter: Segmenter, images: np.ndarray) -> np.ndarray:
    """Masks (N, H, W), bool, of images (N, H, W, 3), uint8."""
    segmenter.eval()
    device = segmenter.mean.device
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    found = [(segmenter(as_tensor(batch, device)) > 0)[:, 0].cpu().numpy() for batch in batches]
    return np.concatenate(found)
