"""Reads single-file Stable Diffusion checkpoints with diffusers and transformers, offline."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..models.metadata import file_hash
from ..models.weights import (
    UNET,
    Kind,
    StateDict,
    WeightsError,
    check_keys,
    read_weights,
    without_prefix,
)
from .host import Autoencoder, BaseModel, TextEncoder
from .ldm_keys import read_shape, unet_to_diffusers
from .schedule import Prediction

log = logging.getLogger(__name__)

MAX_TOKENS = 77
LATENT_SCALE = 0.18215  # of Stable Diffusion 1.x and 2.x
TOKENIZER_ID = {768: "openai/clip-vit-large-patch14", 1024: "stabilityai/stable-diffusion-2"}
HEAD_CHANNELS = 64
# Stable Diffusion 2.x does not use the last of OpenCLIP ViT-H's 24 layers.
OPEN_CLIP_LAYERS = 23
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."


def load_base_model(path: Path, tokenizer_dir: Path | None, v_parameterization: bool) -> BaseModel:
    """Load a single-file SD 1.x or 2.x checkpoint.

    Raises WeightsError for files of another kind, FileNotFoundError when no tokenizer is found.
    """
    file = read_weights(path, expect=(Kind.SD1, Kind.SD2, Kind.MERGED))
    if file.kind is Kind.MERGED:
        log.info("%s: its own control_model is not used; the ControlNet starts anew", path)
    tensors = {
        key: value.float() if value.is_floating_point() else value
        for key, value in file.base().items()
    }
    unet_tensors = without_prefix(tensors, UNET)
    shape = read_shape(unet_tensors, str(path))
    unet = UNet2DConditionModel(**shape.diffusers_config())
    load_checked(unet, unet_to_diffusers(unet_tensors, shape, str(path)), f"{path}: UNet")
    prediction: Prediction = "v" if v_parameterization else "epsilon"
    return BaseModel(
        unet=unet,
        shape=shape,
        autoencoder=load_autoencoder(tensors, str(path)),
        text_encoder=load_text_encoder(tensors, shape.context_dim, tokenizer_dir, str(path)),
        prediction=prediction,
        base_hash=file_hash(path),
    )


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


def load_autoencoder(tensors: Mapping[str, Tensor], what: str) -> Autoencoder:
    """Read `first_stage_model.*`: Stable Diffusion's autoencoder, or a TAESD."""
    vae = without_prefix(tensors, "first_stage_model.")
    if any(key.startswith("taesd_decoder.") for key in vae):
        tiny = AutoencoderTiny()
        load_checked(tiny, _taesd_to_diffusers(vae), f"{what}: autoencoder")
        return TinyAutoencoder(tiny)
    if not vae:
        raise WeightsError(
            f"{what}: holds no autoencoder (first_stage_model.*). Use a full checkpoint."
        )
    module = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    prefixed = {f"first_stage_model.{key}": value for key, value in vae.items()}
    load_checked(
        module, convert_ldm_vae_checkpoint(prefixed, module.config), f"{what}: autoencoder"
    )
    return KLAutoencoder(module)


def _taesd_to_diffusers(vae: Mapping[str, Tensor]) -> StateDict:
    """taesd_encoder.N.* -> encoder.layers.N.*; the decoder's layer 0 is a clamp without weights."""
    renamed: StateDict = {}
    for key, value in vae.items():
        part, _, rest = key.partition(".")
        if part == "taesd_encoder":
            renamed[f"encoder.layers.{rest}"] = value
        elif part == "taesd_decoder":
            number, _, name = rest.partition(".")
            renamed[f"decoder.layers.{int(number) - 1}.{name}"] = value
    return renamed


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


def load_text_encoder(
    tensors: Mapping[str, Tensor], context_dim: int, tokenizer_dir: Path | None, what: str
) -> TextEncoder:
    """Read `cond_stage_model.*`: CLIP-L (SD 1.x) or OpenCLIP ViT-H (SD 2.x)."""
    tokenizer = load_tokenizer(context_dim, tokenizer_dir)
    if OPEN_CLIP + "token_embedding.weight" in tensors:
        module = CLIPTextModel(open_clip_config(tensors))
        unused = f"{OPEN_CLIP}transformer.resblocks.{OPEN_CLIP_LAYERS}."
        used = {key: value for key, value in tensors.items() if not key.startswith(unused)}
        weights = convert_open_clip_checkpoint(module, used)
    elif CLIP + "text_model.embeddings.token_embedding.weight" in tensors:
        weights = without_prefix(tensors, CLIP)
        module = CLIPTextModel(clip_config(weights))
    else:
        raise WeightsError(
            f"{what}: holds no text encoder (cond_stage_model.*). Use a full checkpoint."
        )
    weights.pop("text_model.embeddings.position_ids", None)
    load_checked(module, weights, f"{what}: text encoder")
    return ClipTextEncoder(module, tokenizer)


def clip_config(weights: Mapping[str, Tensor]) -> CLIPTextConfig:
    """Size of a CLIP text model from its weights; CLIP-L for Stable Diffusion 1.x."""
    vocabulary, width = weights["text_model.embeddings.token_embedding.weight"].shape
    layers = sum(key.endswith(".mlp.fc1.bias") for key in weights)
    inner = weights["text_model.encoder.layers.0.mlp.fc1.bias"].shape[0]
    return _config(vocabulary, width, layers, inner, "quick_gelu")


def open_clip_config(tensors: Mapping[str, Tensor]) -> CLIPTextConfig:
    """Size of an OpenCLIP text model from its weights; ViT-H for Stable Diffusion 2.x."""
    vocabulary, width = tensors[OPEN_CLIP + "token_embedding.weight"].shape
    layers = sum(k.startswith(OPEN_CLIP) and k.endswith(".mlp.c_fc.bias") for k in tensors)
    inner = tensors[OPEN_CLIP + "transformer.resblocks.0.mlp.c_fc.bias"].shape[0]
    return _config(vocabulary, width, min(layers, OPEN_CLIP_LAYERS), inner, "gelu")


def _config(
    vocabulary: int, width: int, layers: int, inner: int, activation: str
) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_CHANNELS,
        max_position_embeddings=MAX_TOKENS,
        hidden_act=activation,
        projection_dim=width,
    )


def load_tokenizer(context_dim: int, folder: Path | None) -> CLIPTokenizer:
    """CLIP's tokenizer from `folder`, from the ComfyUI this pack is installed in, or the hub cache.

    Raises FileNotFoundError naming the places looked at.
    """
    name = TOKENIZER_ID[context_dim]
    places = []
    if folder is not None:
        places += [folder / name.replace("/", "_"), folder]
    root = Path(__file__).resolve().parents[1]
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


def load_checked(module: torch.nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load every weight, or raise WeightsError naming the first five that do not fit."""
    check_keys(weights, module.state_dict(), what)
    module.load_state_dict(weights)
