"""Stable Diffusion by sd-scripts' loaders, which are kept from pickles and from the network."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ....common.hashes import file_hash
from ....common.text_files import parse_json, read_text
from ....models.kinds import UNET, Kind, identify
from ....models.metadata import FOLDER_HASH, SD1_CONTEXT, SD2_CONTEXT
from ....models.weights import WeightsError, check_kind, read_shapes
from .library import Library, english

CONTEXT_KEY = UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"


def load_parts(
    library: Library, args: argparse.Namespace, path: Path, accelerator: Accelerator
) -> tuple[Any, Any, Any]:
    """Text encoder, autoencoder and UNet, as sd-scripts' classes.

    path: a .safetensors file or a diffusers folder of Stable Diffusion 1.x or 2.x; args.v2 says
    which, args.vae may name another autoencoder. Raises WeightsError.
    """
    vae_path = None if args.vae is None else Path(args.vae)
    check_vae(vae_path)
    with _explained(path, "full Stable Diffusion 1.x or 2.x checkpoint"):
        text_encoder, vae, unet = _load_model(library, args, path, accelerator)
    if vae_path is not None:
        with _explained(vae_path, "autoencoder"):
            vae = library.model_util.load_vae(str(vae_path), torch.float32)
    return text_encoder, vae, unet


def check_vae(path: Path | None) -> None:
    """Raise WeightsError for a --vae that is not there, or that sd-scripts may not load."""
    if path is not None and not path.exists():  # sd-scripts would ask the hub for it
        raise WeightsError(f"--vae {path}: no such file, nor a folder in diffusers layout.")
    if path is not None:
        _refuse_pickle(path, "--vae ")


@contextmanager
def _explained(path: Path, expected: str) -> Iterator[None]:
    """What sd-scripts raises becomes a WeightsError naming the file."""
    try:
        yield
    except Exception as error:
        raise WeightsError(
            f"{path}: sd-scripts cannot load it ({english(error)}). Use a {expected}, or --host "
            "standalone."
        ) from error


def _load_model(
    library: Library, args: argparse.Namespace, path: Path, accelerator: Accelerator
) -> tuple[Any, Any, Any]:
    if path.is_file():
        # Its load_target_model follows links, such as those of the Hugging Face cache, to files
        # without an extension, and takes these for pickles.
        return library.model_util.load_models_from_stable_diffusion_checkpoint(
            args.v2, str(path), "cpu", unet_use_linear_projection_in_v2=True
        )
    without_vae = argparse.Namespace(**{**vars(args), "vae": None})
    return library.train_util.load_target_model(
        without_vae, torch.float32, accelerator, unet_use_linear_projection_in_v2=True
    )[:3]


def _refuse_pickle(path: Path, flag: str = "") -> None:
    """Raise WeightsError for a file that sd-scripts would load unprotected."""
    if path.is_file() and path.suffix != ".safetensors":
        raise WeightsError(
            f"{flag}{path}: sd-scripts would load this file in a way that can run code inside it. "
            "Convert it to .safetensors, or use --host standalone."
        )


def context_dim(path: Path) -> int:
    """768 for Stable Diffusion 1.x, 1024 for 2.x, from a checkpoint's header or a folder's config.

    Raises WeightsError for anything else; for pickles too.
    """
    if path.is_dir():
        return _folder_context_dim(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint, nor a folder in diffusers layout.")
    _refuse_pickle(path)
    shapes = read_shapes(path)
    check_kind(path, identify(shapes), (Kind.SD1, Kind.SD2, Kind.MERGED))
    return shapes[CONTEXT_KEY][1]


def _folder_context_dim(path: Path) -> int:
    try:
        config = parse_json(read_text(path / "unet/config.json"))
        width = int(config["cross_attention_dim"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise WeightsError(
            f"{path}: not a Stable Diffusion 1.x or 2.x model in diffusers layout ({error})."
        ) from error
    if width not in (SD1_CONTEXT, SD2_CONTEXT):
        raise WeightsError(
            f"{path}: a model with text features of width {width} (2048: SDXL); supported are "
            f"Stable Diffusion 1.x ({SD1_CONTEXT}) and 2.x ({SD2_CONTEXT}), see docs/sdxl.md."
        )
    return width


def folder_hash(path: Path) -> str:
    """SHA-256 over the names and hashes of a diffusers folder's weight files, marked as such."""
    files = sorted([*path.rglob("*.safetensors"), *path.rglob("*.bin")])
    lines = [f"{file.relative_to(path).as_posix()} {file_hash(file)}\n" for file in files]
    return FOLDER_HASH + hashlib.sha256("".join(lines).encode()).hexdigest()
