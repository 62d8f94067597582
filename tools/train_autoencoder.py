"""The demo's tiny autoencoder, and the script that trained the copy in tools/assets.

    python -m siamese_diffusion.tools.train_autoencoder

It has the shape of TAESD (8x smaller latents, 4 channels, 2.4 M parameters), which ComfyUI takes
as a checkpoint's VAE, but none of its weights: everything is learnt from made-up pairs
(`tools/pairs.py`) and from the training crops of `tools/nuclei_crops.py`. Latents come out with
mean 0 and standard deviation 1, as a diffusion model wants them.

The asset was trained in three runs, each from the weights of the one before: 1,600 steps on made-up
pairs alone, before nuclei were in the repository; `--start FILE --steps 1000 --learning_rate 7e-4`,
with the moments of both kinds taken together; `--start FILE --steps 260 --learning_rate 4e-4
--seed 1`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderTiny
from einops import rearrange, repeat
from torch import Tensor, nn
from tqdm import tqdm

from ..models.weights import read_weights, write_weights
from .nuclei_crops import Crop, read_crops
from .otsu import nuclei
from .pairs import find_lesion, iou, make_pair

ASSET = Path(__file__).parent / "assets" / "tiny_autoencoder.safetensors"
PREFIX = "first_stage_model."
SCALE = 0.18215  # of SD 1.5: what ComfyUI multiplies a VAE's output by, undone by vae_scale
LATENT_LIMIT = 3.0  # the decoder bounds latents softly to +-3
CROP = 64
MADE_UP = 3 / 8  # share of a batch; the rest are nuclei


class TinyAutoencoder(nn.Module):
    """Images (B, 3, H, W) in 0..1 <-> latents (B, 4, H/8, W/8) in the UNet's scale."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny: Any = AutoencoderTiny()

    def encode(self, images: Tensor) -> Tensor:
        return self.tiny.encoder(images * 2 - 1)

    def decode(self, latents: Tensor) -> Tensor:
        return self.tiny.decoder(latents) / 2 + 0.5

    def single_file_keys(self) -> dict[str, str]:
        """Parameter name -> its key in a checkpoint, where the decoder's layer 0 is its clamp."""
        keys = {}
        for name in self.state_dict():
            _, part, _, layer, rest = name.split(".", 4)
            number = int(layer) + (part == "decoder")
            keys[name] = f"{PREFIX}taesd_{part}.{number}.{rest}"
        return keys


def load_autoencoder(path: Path = ASSET) -> TinyAutoencoder:
    """The trained autoencoder in float32, frozen. Raises WeightsError when the file is missing."""
    model = TinyAutoencoder()
    tensors = read_weights(path).tensors
    model.load_state_dict(
        {name: tensors[key].float() for name, key in model.single_file_keys().items()}
    )
    return model.eval().requires_grad_(False)


def save_autoencoder(model: TinyAutoencoder, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights in float16 under the keys of a single-file checkpoint."""
    weights = model.state_dict()
    tensors = {key: weights[name].half() for name, key in model.single_file_keys().items()}
    tensors[PREFIX + "vae_scale"] = torch.tensor(SCALE)
    tensors[PREFIX + "vae_shift"] = torch.tensor(0.0)
    write_weights(path, tensors, metadata)


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) in 0..255 -> (3, H, W) in 0..1."""
    return torch.from_numpy(rearrange(image, "h w c -> c h w").astype(np.float32)) / 255


def to_image(tensor: Tensor) -> np.ndarray:
    """(3, H, W), clipped to 0..1 -> (H, W, 3) in 0..255."""
    return rearrange((tensor.clamp(0, 1) * 255).round().byte(), "c h w -> h w c").numpy()


@torch.no_grad()
def evaluate(
    model: TinyAutoencoder, size: int, count: int = 48, seed: int = 10_000
) -> dict[str, float]:
    """Figures on pairs that training did not see: PSNR in dB, latents, IoU of the colour rule."""
    pairs = [make_pair(size, np.random.default_rng((seed, index))) for index in range(count)]
    images = torch.stack([to_tensor(image) for image, _ in pairs])
    latents = model.encode(images)
    decoded = model.decode(latents).clamp(0, 1)
    found = [find_lesion(to_image(image)) for image in decoded]
    return {
        "psnr": -10 * math.log10(F.mse_loss(decoded, images).item()),
        "latent_std": latents.std().item(),
        "latent_max": latents.abs().max().item(),
        "iou": float(
            np.mean([iou(mask, pair[1]) for mask, pair in zip(found, pairs, strict=True)])
        ),
        "iou_original": float(np.mean([iou(find_lesion(image), mask) for image, mask in pairs])),
    }


def _made_up(batch: int) -> int:
    """How many of a batch are made-up pairs; they come first."""
    return round(batch * MADE_UP)


def _moments(latents: Tensor) -> Tensor:
    """How far latents (B, 4, h, w) are from mean 0 and covariance 1 over batch and place."""
    flat = rearrange(latents, "b c h w -> c (b h w)")
    surplus = torch.cov(flat) - torch.eye(len(flat))
    return 0.02 * (flat.mean(1).square().sum() + surplus.square().sum())


@torch.no_grad()
def evaluate_nuclei(model: TinyAutoencoder, crops: Sequence[Crop]) -> dict[str, float]:
    """Figures on nuclei: PSNR in dB, latents, colour in what was grey, IoU of Otsu's nuclei."""
    images = torch.stack([to_tensor(grey_to_rgb(crop.image)) for crop in crops])
    latents = torch.cat([model.encode(chunk) for chunk in images.split(64)])
    decoded = torch.cat([model.decode(chunk) for chunk in latents.split(64)]).clamp(0, 1)
    pairs = list(zip(images, decoded, crops, strict=True))
    return {
        "psnr": -10 * math.log10(F.mse_loss(decoded, images).item()),
        "latent_std": latents.std().item(),
        "latent_max": latents.abs().max().item(),
        "colour": (decoded.amax(1) - decoded.amin(1)).mean().item(),
        "iou": float(np.mean([iou(nuclei(to_image(found)), c.mask) for _, found, c in pairs])),
        "iou_original": float(
            np.mean([iou(nuclei(to_image(real)), c.mask) for real, _, c in pairs])
        ),
    }


def grey_to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return repeat(image, "h w -> h w c", c=3)


def _batch(seed: int, step: int, size: int, batch: int, crops: Sequence[Crop]) -> Tensor:
    """(batch, 3, CROP, CROP): MADE_UP of them cut out of pairs of `size` pixels, then nuclei."""
    rng = np.random.default_rng((seed, step))
    images = []
    for _ in range(_made_up(batch)):
        image, _ = make_pair(size, rng)
        top, left = rng.integers(0, size - CROP + 1, 2)
        images.append(to_tensor(image[top : top + CROP, left : left + CROP]))
    for index in rng.integers(0, len(crops), batch - _made_up(batch)):
        rotated = np.rot90(crops[index].image, int(rng.integers(4)))
        images.append(to_tensor(grey_to_rgb(rotated)))
    return torch.stack(images).contiguous(memory_format=torch.channels_last)


def loss_terms(model: TinyAutoencoder, images: Tensor) -> dict[str, Tensor]:
    """Reconstruction through a slightly noisy latent, and the distance of latents from N(0, 1).

    images: as `_batch` makes them, made-up ones first.
    """
    made_up = _made_up(len(images))
    with torch.autocast("cpu", torch.bfloat16):
        latents = model.encode(images).float()
        # The noise makes the decoder forgive what a barely trained diffusion model gets wrong.
        decoded = model.decode(latents + 0.1 * torch.randn_like(latents)).float()
    return {
        "l1": F.l1_loss(decoded, images),
        "mse": 10 * F.mse_loss(decoded, images),
        # Each kind for itself: a diffusion model may see one of them alone.
        "moments": torch.stack(
            [_moments(part) for part in latents.split([made_up, len(latents) - made_up])]
        ).sum(),
        "range": 0.1 * F.relu(latents.abs() - LATENT_LIMIT).square().mean(),
    }


def train(
    steps: int, batch: int, seed: int, learning_rate: float = 1e-3, start: Path | None = None
) -> TinyAutoencoder:
    """Train from scratch, or from the weights in `start`; the same arguments and machine, the same
    weights."""
    torch.manual_seed(seed)
    model = load_autoencoder(start).train().requires_grad_(True) if start else TinyAutoencoder()
    crops = read_crops("train")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0)
    bar = tqdm(range(steps), unit="step")
    for step in bar:
        warmup, cosine = min(1.0, (step + 1) / 50), 0.5 + 0.5 * math.cos(math.pi * step / steps)
        optimizer.param_groups[0]["lr"] = learning_rate * warmup * cosine
        terms = loss_terms(model, _batch(seed, step, (64, 96, 128)[step % 3], batch, crops))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix({name: f"{value.item():.4f}" for name, value in terms.items()})
    return model.eval()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m siamese_diffusion.tools.train_autoencoder",
        description="Train the demo's tiny autoencoder on made-up pairs and nuclei.",
    )
    parser.add_argument("--out", type=Path, default=ASSET, help="file to write (the asset)")
    parser.add_argument("--steps", type=int, default=1600, help="1600")
    parser.add_argument("--batch", type=int, default=8, help="8")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="1e-3")
    parser.add_argument("--start", type=Path, help="weights to go on from; default: random ones")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    model = train(
        arguments.steps,
        arguments.batch,
        arguments.seed,
        arguments.learning_rate,
        arguments.start,
    )
    figures = {f"{size}px": evaluate(model, size) for size in (64, 128)}
    figures["nuclei"] = evaluate_nuclei(model, read_crops("val"))
    metadata = {
        "made_by": "tools/train_autoencoder.py",
        "data": "tools/pairs.py (generated) and the training crops of tools/assets/nuclei (CC0)",
        "steps": f"{arguments.steps} of batch {arguments.batch}, {CROP} px crops",
        "seed": str(arguments.seed),
        "start": arguments.start.name if arguments.start else "random weights",
    }
    for size, values in figures.items():
        metadata[size] = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        print(f"{size}: {metadata[size]}")
    save_autoencoder(model, arguments.out, metadata)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
