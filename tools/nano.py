"""A nano Stable Diffusion 1.5: a checkpoint of the real kind, small enough for two CPU cores.

    python -m siamese_diffusion.tools.nano nano.safetensors                  # random weights
    python -m siamese_diffusion.tools.nano nano.safetensors --pairs PAIRS/prompt.jsonl --steps 200

ComfyUI and train_siamese.py take it for Stable Diffusion 1.5: the UNet has its widths but only two
levels of one residual block (44 M parameters), CLIP has its real size but random weights, and the
autoencoder is the one of tools/assets.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

from ..common.pairs import DatasetError
from ..common.pictures import read_image
from ..common.prompt_jsonl import read_prompt_jsonl
from ..models.weights import UNET, StateDict, WeightsError, read_weights, write_weights
from ..training.data.dataset import check
from ..training.hosts.encoders import ClipTextEncoder
from ..training.hosts.single_file import load_autoencoder
from ..training.hosts.tokenizer import load_tokenizer
from ..training.method.ldm_keys import UNetShape, unet_to_ldm
from ..training.method.noise_schedule import TIMESTEPS, NoiseSchedule
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
    steps: int = 0,
    resolution: int = 64,
    batch: int = 8,
    learning_rate: float = 3e-4,
    autoencoder: str | Path = ASSET,
) -> Path:
    """Write a nano checkpoint (430 MB) to `path` and return it; the seed decides every weight.

    Args:
        pairs: a prompt.jsonl; its images are what the UNet learns, its masks are not read.
        steps: of training; 0 leaves the UNet random.
        resolution: width and height in pixels that the images are resized to, a multiple of 16.
        autoencoder: file with `first_stage_model.*`, copied into the checkpoint.

    Raises:
        ValueError: steps without pairs, or a resolution that does not fit.
        DatasetError, WeightsError: a file is missing or damaged.
    """
    if steps and pairs is None:
        raise ValueError(f"{steps} steps of training need `pairs`.")
    if resolution % 16:
        raise ValueError(f"resolution {resolution} is not a multiple of 16.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet: Any = UNet2DConditionModel(**SHAPE.diffusers_config())
        clip = CLIPTextModel(CLIP_L).eval()
        first_stage = read_weights(autoencoder).tensors
        if pairs is not None and steps:
            images, captions = _read_images(Path(pairs), resolution)
            latents = _encode(images, first_stage)
            text = ClipTextEncoder(clip, load_tokenizer(768, None))
            _train(unet, latents, _embed(text, captions), steps, batch, learning_rate)
    tensors = {UNET + key: value for key, value in unet_to_ldm(unet.state_dict(), SHAPE).items()}
    tensors |= {TEXT_PREFIX + key: value.half() for key, value in clip.state_dict().items()}
    write_weights(path, {**tensors, **first_stage}, {"made_by": "tools/nano.py"})
    return Path(path)


def _read_images(index: Path, resolution: int) -> tuple[Tensor, list[str]]:
    """Images (N, 3, resolution, resolution) in 0..1, each also mirrored, and their captions."""
    images, captions = [], []
    for pair in check(str(index), read_prompt_jsonl(index), "binary").pairs:
        image = Image.fromarray(read_image(pair.image)).resize(
            (resolution, resolution), Image.Resampling.BICUBIC
        )
        for version in (np.asarray(image), np.asarray(image)[:, ::-1]):
            images.append(to_tensor(version))
            captions.append(pair.caption)
    return torch.stack(images), captions


@torch.no_grad()
def _encode(images: Tensor, first_stage: StateDict) -> Tensor:
    """(N, 3, H, W) in 0..1 -> latents (N, 4, H/8, W/8)."""
    autoencoder = load_autoencoder(
        {key: value.float() for key, value in first_stage.items()}, "autoencoder"
    )
    chunks = tqdm(images.split(16), desc="encoding images", unit="batch")
    return torch.cat([autoencoder.encode(chunk)[0] for chunk in chunks])


@torch.no_grad()
def _embed(text: ClipTextEncoder, captions: list[str]) -> Tensor:
    """Embeddings (N, 2, 77, 768): each caption's, and the empty one that guidance compares with."""
    known = {caption: text.encode([caption])[0] for caption in {*captions, ""}}
    return torch.stack([torch.stack([known[caption], known[""]]) for caption in captions])


def _train(
    unet: Any,
    latents: Tensor,
    text: Tensor,
    steps: int,
    batch: int,
    learning_rate: float,
) -> None:
    """Plain noise prediction, the caption dropped half of the time."""
    schedule = NoiseSchedule()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=learning_rate, weight_decay=0)
    bar = tqdm(range(steps), desc="training the base", unit="step")
    average = 1.0
    for step in bar:
        # A short rise, then a cosine to zero: the last steps settle what the first ones found.
        rate = min(1.0, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = learning_rate * rate
        rows = torch.randint(len(latents), (batch,))
        noise = torch.randn_like(latents[rows])
        timesteps = torch.randint(TIMESTEPS, (batch,))
        noisy = schedule.add_noise(latents[rows], noise, timesteps)
        context = text[rows, torch.randint(2, (batch,))]
        loss = nn.functional.mse_loss(unet(noisy, timesteps, context).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average += (loss.item() - average) * max(0.02, 1 / (step + 1))
        bar.set_postfix(loss=f"{average:.3f}")


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
    parser.add_argument("--seed", type=int, default=0, help="0")
    parser.add_argument("--autoencoder", type=Path, default=ASSET, help="the one of tools/assets")
    arguments = vars(parser.parse_args(argv))
    try:
        path = build_nano(arguments.pop("out"), **arguments)
    except (ValueError, OSError, DatasetError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
