"""Reads single-file Stable Diffusion checkpoints with diffusers and transformers, offline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ...common.hashes import file_hash
from ...models.kinds import UNET, Kind, identify
from ...models.weights import (
    StateDict,
    WeightFile,
    WeightsError,
    check_is_file,
    check_keys,
    check_kind,
    first_line,
    is_safetensors,
    load_checked,
    read_shapes,
    read_weights,
    without_prefix,
)
from ..method.base_model import Autoencoder, BaseModel, TextEncoder
from ..method.ldm_keys import UNetShape, read_shape, unet_to_diffusers
from ..method.noise_schedule import Prediction
from .encoders import ClipTextEncoder, KLAutoencoder, TinyAutoencoder
from .tokenizer import MAX_TOKENS, load_tokenizer

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)

HEAD_CHANNELS = 64
# Stable Diffusion 2.x does not use the last of OpenCLIP ViT-H's 24 layers.
OPEN_CLIP_LAYERS = 23
BASES = (Kind.SD1, Kind.SD2, Kind.MERGED)
AUTOENCODER = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
TEXT_MODEL = "text_model."
CLIP_EMBEDDING = CLIP + "text_model.embeddings.token_embedding.weight"
OPEN_CLIP_EMBEDDING = OPEN_CLIP + "token_embedding.weight"


def check_header(path: Path) -> None:
    """Raise WeightsError for what is no single-file SD 1.x or 2.x checkpoint, by its header.

    Of a pickle, which has no header, only that it is a file.
    """
    check_is_file(path)
    if is_safetensors(path):
        shapes = read_shapes(path)
        check_kind(path, identify(shapes), BASES)
        check_complete(shapes, str(path))


def check_complete(keys: Collection[str], what: str) -> None:
    """Raise WeightsError for a checkpoint without autoencoder or text encoder."""
    if not any(key.startswith(AUTOENCODER) for key in keys):
        raise WeightsError(f"{what}: holds no autoencoder ({AUTOENCODER}*). Use a full checkpoint.")
    if not any(key in keys for key in (CLIP_EMBEDDING, OPEN_CLIP_EMBEDDING)):
        raise WeightsError(
            f"{what}: holds no text encoder (cond_stage_model.*). Use a full checkpoint."
        )


def load_base_model(path: Path, tokenizer_dir: Path | None, v_parameterization: bool) -> BaseModel:
    """Load a single-file SD 1.x or 2.x checkpoint.

    Raises WeightsError for files of another kind, ConfigError for a folder without a tokenizer.
    """
    file = read_weights(path, expect=BASES)
    if file.kind is Kind.MERGED:
        log.info("%s: its control_model is not used; a new ControlNet is trained", path)
    return base_model_of(file, tokenizer_dir, v_parameterization)


def base_model_of(
    file: WeightFile, tokenizer_dir: Path | None, v_parameterization: bool
) -> BaseModel:
    """The base model in a checkpoint that has been read. Raises as `load_base_model`."""
    path = file.path
    check_complete(file.tensors, str(path))
    tensors = {
        key: value.float() if value.is_floating_point() else value
        for key, value in file.base().items()
    }
    unet, shape = load_unet(tensors, str(path))
    prediction: Prediction = "v" if v_parameterization else "epsilon"
    return BaseModel(
        unet=unet,
        shape=shape,
        autoencoder=load_autoencoder(tensors, str(path)),
        text_encoder=load_text_encoder(tensors, shape.context_dim, tokenizer_dir, str(path)),
        prediction=prediction,
        base_hash=file_hash(path),
    )


def load_unet(tensors: Mapping[str, Tensor], what: str) -> tuple[UNet2DConditionModel, UNetShape]:
    """Read `model.diffusion_model.*`, and the shape that its tensors say."""
    found, what = without_prefix(tensors, UNET), f"{what}: UNet"
    shape = read_shape(found, what)
    weights = unet_to_diffusers(found, shape, what)
    return built(lambda: UNet2DConditionModel(**shape.diffusers_config()), weights, what), shape


def load_autoencoder(tensors: Mapping[str, Tensor], what: str) -> Autoencoder:
    """Read `first_stage_model.*`: Stable Diffusion's autoencoder, or a TAESD."""
    vae = without_prefix(tensors, AUTOENCODER)
    if any(key.startswith("taesd_decoder.") for key in vae):
        weights = _taesd_to_diffusers(vae)
        return TinyAutoencoder(built(AutoencoderTiny, weights, f"{what}: autoencoder"))
    module = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    prefixed = {AUTOENCODER + key: value for key, value in vae.items()}
    with _odd_weights(f"{what}: autoencoder"):
        weights = convert_ldm_vae_checkpoint(prefixed, module.config)
        load_checked(module, weights, f"{what}: autoencoder")
    return KLAutoencoder(module)


def built(make: Callable[[], Module], weights: Mapping[str, Tensor], what: str) -> Module:
    """A network with these weights, whose shapes have said what it is.

    Memory is taken for it only after its keys and shapes have been compared with theirs. Raises
    WeightsError.
    """
    with _odd_weights(what):
        with torch.device("meta"):
            check_keys(weights, make().state_dict(), what)
        module = make()
        module.load_state_dict(weights)
    return module


@contextmanager
def _odd_weights(what: str) -> Iterator[None]:
    """Weights of odd dimensions make libraries raise nearly anything: say which they are of."""
    try:
        yield
    except WeightsError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise WeightsError(
            f"{what}: its tensors do not belong to a Stable Diffusion 1.x or 2.x model "
            f"({type(e).__name__}: {first_line(e)}). Copy or download it again."
        ) from e


def _taesd_to_diffusers(vae: Mapping[str, Tensor]) -> StateDict:
    """taesd_encoder.N.* -> encoder.layers.N.*; the decoder's layer 0 is a clamp without weights."""
    renamed: StateDict = {}
    for key, value in vae.items():
        part, _, rest = key.partition(".")
        if part == "taesd_encoder":
            renamed[f"encoder.layers.{rest}"] = value
        elif part == "taesd_decoder":
            number, _, name = rest.partition(".")
            before = int(number) - 1 if number.isdecimal() else number
            renamed[f"decoder.layers.{before}.{name}"] = value
    return renamed


def load_text_encoder(
    tensors: Mapping[str, Tensor], context_dim: int, tokenizer_dir: Path | None, what: str
) -> TextEncoder:
    """Read `cond_stage_model.*`: CLIP-L (SD 1.x) or OpenCLIP ViT-H (SD 2.x)."""
    tokenizer = load_tokenizer(context_dim, tokenizer_dir)
    what = f"{what}: text encoder"
    with _odd_weights(what):
        if OPEN_CLIP_EMBEDDING in tensors:
            config = open_clip_config(tensors)
            unused = f"{OPEN_CLIP}transformer.resblocks.{OPEN_CLIP_LAYERS}."
            used = {key: value for key, value in tensors.items() if not key.startswith(unused)}
            with torch.device("meta"):
                empty = CLIPTextModel(config)
            weights = convert_open_clip_checkpoint(empty, used)
        else:
            weights = without_prefix(tensors, CLIP)
            config = clip_config(weights)
    weights.pop("text_model.embeddings.position_ids", None)
    if config.hidden_size != context_dim or config.vocab_size < len(tokenizer):
        raise WeightsError(
            f"{what}: knows {config.vocab_size} tokens of width {config.hidden_size}; expected "
            f"{len(tokenizer)} and {context_dim}, the UNet's. Use another checkpoint."
        )
    with torch.device("meta"):
        named = _named_as_in(CLIPTextModel(config), weights)
    return ClipTextEncoder(built(lambda: CLIPTextModel(config), named, what), tokenizer)


def _named_as_in(module: CLIPTextModel, weights: Mapping[str, Tensor]) -> StateDict:
    """With the names of the installed transformers: from version 5 on without `text_model.`."""
    if any(key.startswith(TEXT_MODEL) for key in module.state_dict()):
        return dict(weights)
    return {key.removeprefix(TEXT_MODEL): value for key, value in weights.items()}


def clip_config(weights: Mapping[str, Tensor]) -> CLIPTextConfig:
    """Size of a CLIP text model from its weights; CLIP-L for Stable Diffusion 1.x."""
    vocabulary, width = weights["text_model.embeddings.token_embedding.weight"].shape
    layers = sum(key.endswith(".mlp.fc1.bias") for key in weights)
    inner = weights["text_model.encoder.layers.0.mlp.fc1.bias"].shape[0]
    return _config(vocabulary, width, layers, inner, "quick_gelu")


def open_clip_config(tensors: Mapping[str, Tensor]) -> CLIPTextConfig:
    """Size of an OpenCLIP text model from its weights; ViT-H for Stable Diffusion 2.x."""
    vocabulary, width = tensors[OPEN_CLIP_EMBEDDING].shape
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
