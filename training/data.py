"""From checked pairs to the batch of a step: pictures, cached latents and text embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .host import BaseModel
from .objective import Batch
from .order import generator
from .pairs import Pair, read_image, read_mask, resize_pair
from .schedule import TIMESTEPS

PICTURE_MEMORY = 2 << 30  # bytes of decoded pictures kept; beyond it they are read at every step
CACHE_BATCH = 8


class TrainingData:
    """The pairs at training resolution, with latents and text embeddings computed once.

    size: (width, height) in pixels, multiples of 8.
    """

    def __init__(self, pairs: Sequence[Pair], size: tuple[int, int]) -> None:
        self.pairs = pairs
        self.size = size
        self._pictures: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._keep = len(pairs) * size[0] * size[1] * 4 < PICTURE_MEMORY
        self._latents: list[tuple[Tensor, Tensor]] = []
        self._text: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    @torch.no_grad()
    def prepare(self, base: BaseModel, device: torch.device, quiet: bool = False) -> None:
        """Encode every image and every caption once, with progress."""
        captions = sorted({"", *(pair.caption for pair in self.pairs)})
        base.text_encoder.module.to(device).eval()
        for chunk in tqdm(_chunks(captions), "text embeddings", disable=quiet):
            embeddings = base.text_encoder.encode(chunk).cpu()
            self._text |= dict(zip(chunk, embeddings, strict=True))
        base.autoencoder.module.to(device).eval()
        for chunk in tqdm(_chunks(range(len(self))), "latents", disable=quiet):
            _, images = self.pictures(chunk)
            mean, deviation = base.autoencoder.encode(images.to(device))
            self._latents += zip(mean.float().cpu(), deviation.float().cpu(), strict=True)

    def pictures(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Masks (B, 1, H, W) in {0, 1} and images (B, 3, H, W) in [0, 1]."""
        with ThreadPoolExecutor() as pool:
            loaded = list(pool.map(self._picture, indices))
        images = np.stack([image for image, _ in loaded]).astype(np.float32) / 255
        masks = np.stack([mask for _, mask in loaded]).astype(np.float32)
        return torch.from_numpy(masks)[:, None], torch.from_numpy(images).permute(0, 3, 1, 2)

    def _picture(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index in self._pictures:
            return self._pictures[index]
        pair = self.pairs[index]
        picture = resize_pair(read_image(pair.image), read_mask(pair.mask), self.size)
        if self._keep:
            self._pictures[index] = picture
        return picture

    def text(self, captions: Iterable[str]) -> Tensor:
        """Embeddings (B, 77, D) of captions of this dataset, or of the empty one."""
        return torch.stack([self._text[caption] for caption in captions])

    def batch(self, indices: Sequence[int], seed: int, step: int, caption_dropout: float) -> Batch:
        """The batch of a step, on the CPU; all that is random depends on (seed, step) alone."""
        random = generator(seed, "batch", step)
        count = len(indices)
        mean = torch.stack([self._latents[i][0] for i in indices])
        deviation = torch.stack([self._latents[i][1] for i in indices])
        dropped = torch.rand(count, generator=random) < caption_dropout
        captions = [
            "" if drop else self.pairs[i].caption for i, drop in zip(indices, dropped, strict=True)
        ]
        mask, image = self.pictures(indices)
        return Batch(
            latents=mean + deviation * torch.randn(mean.shape, generator=random),
            noise=torch.randn(mean.shape, generator=random),
            timesteps=torch.randint(TIMESTEPS, (count,), generator=random),
            text=self.text(captions),
            mask=mask,
            image=image,
        )


def _chunks(items: Sequence) -> list[Sequence]:
    return [items[i : i + CACHE_BATCH] for i in range(0, len(items), CACHE_BATCH)]
