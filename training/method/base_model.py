"""A base model in memory, whichever host has loaded it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from .ldm_keys import UNetShape
from .noise_schedule import Prediction


class Autoencoder(Protocol):
    """Between images (B, 3, H, W) in [0, 1] and latents (B, 4, H/8, W/8) of about unit variance."""

    module: nn.Module

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents' distribution."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [0, 1]."""


class TextEncoder(Protocol):
    """Turns captions into the conditioning that the UNet attends to."""

    module: nn.Module
    settings: str  # what, besides the weights, decides the embeddings

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (B, T, D) in float32, T = 77 unless set otherwise; longer captions are cut."""


@dataclass(frozen=True)
class BaseModel:
    """A Stable Diffusion 1.x/2.x model in memory, on the CPU in float32.

    base_hash: SHA-256 of the checkpoint file, as it goes to the metadata of what is trained on it;
    of a diffusers folder, that of its weight files' hashes.
    """

    unet: UNet2DConditionModel
    shape: UNetShape
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    prediction: Prediction
    base_hash: str
