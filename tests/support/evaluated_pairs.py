"""Made-up pairs in memory, and what segments them without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.evaluation.pair_sets import PairSet, load_pairs
from siamese_diffusion.evaluation.segmenters import Segmenter
from siamese_diffusion.tools.pairs import write_pairs
from torch import Tensor

SIZE = 32


def made_up(folder: Path, name: str, count: int, seed: int, group_of: int = 0) -> PairSet:
    """`count` pairs of 32 px; with `group_of`, that many neighbours share a group."""
    path = write_pairs(folder / name, count, SIZE, seed)
    pairs = read_prompt_jsonl(path).pairs
    if group_of:
        pairs = [
            replace(pair, group=f"{name} {number // group_of}") for number, pair in enumerate(pairs)
        ]
    return load_pairs(name, pairs, SIZE)


def rewritten(pairs: PairSet, name: str, change: Callable[[np.ndarray], np.ndarray]) -> PairSet:
    """The pairs with changed images and masks of their own."""
    images = np.stack([change(image) for image in pairs.images])
    hashes = tuple(f"{name} {content}" for content in pairs.image_hashes)
    return replace(pairs, name=name, images=images, image_hashes=hashes)


def with_shuffled_masks(pairs: PairSet, name: str) -> PairSet:
    """The pairs, each with the mask of the next one."""
    masks = np.roll(pairs.masks, 1, axis=0)
    return replace(pairs, name=name, masks=masks, mask_hashes=tuple(np.roll(pairs.mask_hashes, 1)))


def save_as(image: Path, path: Path) -> Path:
    """The same pixels in a file of another format."""
    Image.open(image).save(path)
    return path


class ColourSegmenter(Segmenter):
    """Finds the lesions of made-up pairs by their colour: blue above green."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 2:3] - images[:, 1:2]
