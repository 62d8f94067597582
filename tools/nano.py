"""A nano Stable Diffusion 1.5: a checkpoint of the real kind, small enough for two CPU cores.

    python -m siamese_diffusion.tools.nano nano.safetensors                  # random weights
    python -m siamese_diffusion.tools.nano nano.safetensors --pairs PAIRS/prompt.jsonl --steps 200

ComfyUI and train_siamese.py take it for Stable Diffusion 1.5: the UNet has its widths but only two
levels of one residual block (44 M parameters), CLIP has its real size but random weights, and the
autoencoder is the one of tools/assets.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

from ..common.pair_check import check_pairs
from ..common.pairs import DatasetError
from ..common.pictures import read_image
from ..common.prompt_jsonl import read_prompt_jsonl
from ..models.kinds import UNET
from ..models.weights import StateDict, WeightsError, read_weights, write_weights
from ..training.hosts.encoders import ClipTextEncoder
from ..training.hosts.single_file import load_autoencoder
from ..training.hosts.tokenizer import load_tokenizer
from ..training.method.ldm_keys import UNetShape, unet_to_ldm
from .base_training import BaseData, BaseTraining, train_unet
from .train_autoencoder import ASSET, to_tensor

SHAPE = UNetShape(
    channels=(320, 320),
    attention=(True, True),
    resnets=1,
    context_dim=768,
    linear_projection=False,
)
TEXT_PREFIX = "cond_stage_model.transformer."
CLIP_L = CLIPTextConfig(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
)


def build_nano(
    path: str | Path,
    *,
    seed: int = 0,
    pairs: str | Path | None = None,
    training: BaseTraining | None = None,
    resolution: int = 64,
    autoencoder: str | Path = ASSET,
    shape: UNetShape = SHAPE,
    text_encoder: CLIPTextConfig = CLIP_L,
) -> Path:
    """Write a nano checkpoint (430 MB) to `path` and return it; the seed decides every weight.

    Args:
        pairs: a prompt.jsonl; its images are what the UNet learns, its masks are not read.
        training: how it learns them; without it the UNet stays random.
        resolution: width and height in pixels that the images are resized to, a multiple of 16.
        autoencoder: file with `first_stage_model.*`, copied into the checkpoint.
        shape, text_encoder: others are not taken for Stable Diffusion 1.5 by ComfyUI.

    Raises:
        ValueError: pairs without training or the reverse, or a resolution that does not fit.
        DatasetError, WeightsError: a file is missing or damaged.
    """
    if (pairs is None) != (training is None):
        raise ValueError("`pairs` and steps of training need each other.")
    if resolution % 16:
        raise ValueError(f"resolution {resolution} is not a multiple of 16.")
    state = Path(path).with_suffix(".state")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet: Any = UNet2DConditionModel(**shape.diffusers_config())
        clip = CLIPTextModel(text_encoder).eval()
        first_stage = read_weights(autoencoder).tensors
        if pairs is not None and training is not None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            images, captions = _read_images(Path(pairs), resolution)
            latents = _encode(images, first_stage, device)
            text, rows = _embed(ClipTextEncoder(clip, load_tokenizer(768, None)), captions)
            train_unet(unet.to(device), BaseData(latents, text, rows), training, state)
            unet.cpu()
    tensors = {UNET + key: value for key, value in unet_to_ldm(unet.state_dict(), shape).items()}
    for key, value in clip.state_dict().items():
        # Checkpoints have `text_model.` before every name, transformers from version 5 on has not.
        tensors[f"{TEXT_PREFIX}text_model.{key.removeprefix('text_model.')}"] = value.half()
    write_weights(path, {**tensors, **first_stage}, {"made_by": "tools/nano.py"})
    state.unlink(missing_ok=True)
    return Path(path)


def _read_images(index: Path, resolution: int) -> tuple[Tensor, list[str]]:
    """Images (N, 3, resolution, resolution) in 0..1, each flipped too, and their captions."""
    images, captions = [], []
    for pair in check_pairs(str(index), read_prompt_jsonl(index), "binary"):
        image = Image.fromarray(read_image(pair.image)).resize(
            (resolution, resolution), Image.Resampling.BICUBIC
        )
        for version in (np.asarray(image), np.asarray(image)[:, ::-1]):
            images.append(to_tensor(version))
            captions.append(pair.caption)
    return torch.stack(images), captions


@torch.no_grad()
def _encode(images: Tensor, first_stage: StateDict, device: str) -> Tensor:
    """(N, 3, H, W) in 0..1 -> latents (N, 4, H/8, W/8) on the device."""
    autoencoder = load_autoencoder(
        {key: value.float() for key, value in first_stage.items()}, "autoencoder"
    )
    autoencoder.module.to(device)
    chunks = tqdm(images.split(16), desc="encoding images", unit="batch")
    return torch.cat([autoencoder.encode(chunk.to(device))[0] for chunk in chunks])


@torch.no_grad()
def _embed(text: ClipTextEncoder, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Embeddings (K, 77, 768), the empty caption's first, and each caption's row in them (N,)."""
    known = ["", *sorted({*captions} - {""})]
    rows = torch.tensor([known.index(caption) for caption in captions])
    return torch.cat([text.encode([caption]) for caption in known]), rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m siamese_diffusion.tools.nano",
        description="Write a nano Stable Diffusion 1.5 checkpoint for tests and the demo.",
    )
    parser.add_argument("out", type=Path, help=".safetensors file to write")
    parser.add_argument("--pairs", type=Path, help="prompt.jsonl whose images to learn")
    parser.add_argument("--steps", type=int, default=0, help="0: random weights")
    parser.add_argument("--resolution", type=int, default=64, help="in pixels (64)")
    parser.add_argument("--batch", type=int, default=8, help="8")
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="3e-4")
    parser.add_argument("--warmup", type=int, default=20, help="steps (20)")
    parser.add_argument("--text_dropout", type=float, default=0.5, help="share of captions (0.5)")
    parser.add_argument("--bf16", action="store_true", help="faster on processors that have it")
    parser.add_argument("--save_every", type=int, default=0, help="steps; the same command resumes")
    parser.add_argument("--seed", type=int, default=0, help="0")
    parser.add_argument("--autoencoder", type=Path, default=ASSET, help="the one of tools/assets")
    given = vars(parser.parse_args(argv))
    training = BaseTraining(**{field.name: given.pop(field.name) for field in fields(BaseTraining)})
    path = given.pop("out")
    try:
        build_nano(path, training=training if training.steps else None, seed=training.seed, **given)
    except (ValueError, OSError, DatasetError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
