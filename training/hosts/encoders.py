"""Autoencoders and text encoders of Stable Diffusion, as diffusers and transformers have them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .tokenizer import MAX_TOKENS

LATENT_SCALE = 0.18215  # of Stable Diffusion 1.x and 2.x


class KLAutoencoder:
    """Stable Diffusion's own autoencoder."""

    def __init__(self, module: AutoencoderKL) -> None:
        self.module = module

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        distribution = self.module.encode(images * 2 - 1).latent_dist
        return distribution.mean * LATENT_SCALE, distribution.std * LATENT_SCALE

    def decode(self, latents: Tensor) -> Tensor:
        return (self.module.decode(latents / LATENT_SCALE).sample / 2 + 0.5).clamp(0, 1)


class TinyAutoencoder:
    """A TAESD inside a checkpoint, as ComfyUI takes it: no variance, latents already scaled."""

    def __init__(self, module: AutoencoderTiny) -> None:
        self.module = module

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.module.encode(images * 2 - 1).latents
        return mean, torch.zeros_like(mean)

    def decode(self, latents: Tensor) -> Tensor:
        return (self.module.decode(latents).sample / 2 + 0.5).clamp(0, 1)


class ClipTextEncoder:
    """Last hidden state after the final layer norm, as the published FrozenCLIPEmbedder."""

    settings = ""

    def __init__(self, module: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        self.module = module
        self.tokenizer = tokenizer

    def encode(self, captions: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(captions),
            max_length=MAX_TOKENS,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        device = next(self.module.parameters()).device
        return self.module(tokens.input_ids.to(device)).last_hidden_state.float()
