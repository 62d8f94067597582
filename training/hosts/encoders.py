"""Autoencoders and text encoders of Stable Diffusion, as diffusers and transformers have them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

log = logging.getLogger(__name__)

MAX_TOKENS = 77
LATENT_SCALE = 0.18215  # of Stable Diffusion 1.x and 2.x
TOKENIZER_ID = {768: "openai/clip-vit-large-patch14", 1024: "stabilityai/stable-diffusion-2"}


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


def load_tokenizer(context_dim: int, folder: Path | None) -> CLIPTokenizer:
    """CLIP's tokenizer from `folder`, from the ComfyUI this pack is installed in, or the hub cache.

    Raises FileNotFoundError naming the places looked at.
    """
    name = TOKENIZER_ID[context_dim]
    places = []
    if folder is not None:
        places += [folder / name.replace("/", "_"), folder]
    root = Path(__file__).resolve().parents[2]
    # <ComfyUI>/custom_nodes/<this pack>; and the host of the development environment.
    places += [root.parents[1] / "comfy/sd1_tokenizer", root / ".venv/comfyui/comfy/sd1_tokenizer"]
    # ComfyUI's copy says 8192 as maximum length; Stable Diffusion's text encoders take 77. Version
    # 2.x pads with "!" instead of the end token.
    options: dict[str, Any] = {"model_max_length": MAX_TOKENS}
    if context_dim == 1024:
        options |= {"pad_token": "!"}
    for place in places:
        if (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
            log.info("Tokenizer: %s", place)
            return CLIPTokenizer.from_pretrained(str(place), **options)
    try:
        subfolder = "tokenizer" if context_dim == 1024 else ""
        return CLIPTokenizer.from_pretrained(name, subfolder=subfolder, **options)
    except (OSError, ImportError, ValueError) as error:
        looked = "".join(f"\n  {place}" for place in places)
        offline = " (offline mode is on)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise FileNotFoundError(
            f"CLIP's tokenizer (vocab.json, merges.txt) is not in{looked}\nand {name} could not "
            f"be downloaded{offline}. Give the folder with --tokenizer_cache_dir; ComfyUI has it "
            "in comfy/sd1_tokenizer."
        ) from error
