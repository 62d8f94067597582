"""A training step with cached latents and text, against encoding both at every step.

The encoders have the size of Stable Diffusion 1.5's, whatever the UNet's, and random weights.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..training.data.cache import MemoryCache
from ..training.hosts.encoders import KLAutoencoder
from ..training.method.objective import Batch
from .measure import interleave, machine, median_ratio
from .report import Result, compare
from .workload import Scale, Step, random_batch, random_networks

TOKENS = 77
VOCABULARY = 49408


class Encoders:
    """Image and text encoder; `full` or only wide enough to run."""

    def __init__(self, full: bool, context_dim: int) -> None:
        torch.manual_seed(0)
        widths = (128, 256, 512, 512) if full else (32, 32, 32, 32)
        autoencoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=widths,
            layers_per_block=2,
            latent_channels=4,
        )
        clip = CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=context_dim,
            intermediate_size=4 * context_dim,
            num_hidden_layers=12 if full else 1,
            num_attention_heads=context_dim // 64 if full else 1,
            max_position_embeddings=TOKENS,
            hidden_act="quick_gelu",
        )
        self.autoencoder = KLAutoencoder(autoencoder.eval())
        self.text: nn.Module = CLIPTextModel(clip).eval()

    @torch.no_grad()
    def encode(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and deviation of the latents, and the text's embeddings."""
        mean, deviation = self.autoencoder.encode(images)
        return mean, deviation, self.text(tokens).last_hidden_state


def measure_caching(scale: Scale, full: bool = True) -> Result:
    """Compare without augmentation, and on a batch of which one in five samples is augmented."""
    encoders = Encoders(full, scale.shape.context_dim)
    plain, augmented = (random_batch(scale, count) for count in (0, scale.batch // 5))
    tokens = torch.randint(VOCABULARY, (scale.batch, TOKENS))
    cache, shape = MemoryCache(), tuple(plain.latents.shape[1:])
    for index, tensors in enumerate(zip(*encoders.encode(plain.image, tokens), strict=True)):
        cache.save(str(index), *tensors)

    def encoded(batch: Batch) -> Batch:
        return _sampled(batch, *encoders.encode(batch.image, tokens))

    def cached(batch: Batch) -> Batch:
        loaded = zip(*(cache.load(str(index), shape) for index in range(scale.batch)), strict=True)
        return _sampled(batch, *(torch.stack(tensors) for tensors in loaded))

    ours = Step(random_networks(scale.shape))
    published = Step(random_networks(scale.shape), published=True)
    sides = {
        "published": lambda: published(encoded(plain)),
        "published, augmentation": lambda: published(encoded(augmented)),
        "ours, encoding": lambda: ours(encoded(plain)),
        "ours, cached": lambda: ours(cached(plain)),
        "ours, cached, augmentation": lambda: ours(cached(augmented)),
    }
    seconds = interleave(sides, scale.rounds)
    rows = []
    for what, before, after, target in (
        ("published step with encoding / ours, cached", "published", "ours, cached", "≤ 0.55"),
        (
            "published step with encoding / ours, cached; with augmentation",
            "published, augmentation",
            "ours, cached, augmentation",
            "≤ 0.55",
        ),
        ("caching alone: our step with encoding / cached", "ours, encoding", "ours, cached", ""),
    ):
        slow, fast = seconds[before], seconds[after]
        ratio = median_ratio(fast, slow)
        rows.append(
            compare(what, statistics.median(slow), statistics.median(fast), "s", target, ratio)
        )
    size = "full-size" if full else "tiny"
    title = f"Caching: {scale.name}, batch {scale.batch}, {scale.pixels} px, {size} encoders"
    return Result("caching", title, machine(), rows, {"seconds": seconds})


def _sampled(batch: Batch, mean: Tensor, deviation: Tensor, text: Tensor) -> Batch:
    return replace(batch, latents=mean + deviation * torch.randn_like(mean), text=text)
