"""A whole dataset from a folder of masks, one image in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import latent_preview
from torch import Tensor

from .folders import read_mask
from .pair_folder import PairFolder
from .sampling import Callback, Settings, Sources, noise_levels, sample_masks


@dataclass(frozen=True)
class Item:
    """One image to make: the `index`-th, from 1, of a mask."""

    mask: Path
    stem: str
    index: int

    @property
    def name(self) -> str:
        # Always with a number: a mask called a_2 must not meet the second image of mask a.
        return f"{self.stem}_{self.index}"

    def seed(self, seed: int) -> int:
        """Of its own, whatever other masks there are: from the stem and the index alone."""
        digest = hashlib.sha256(f"{seed}/{self.index}/{self.stem}".encode()).digest()
        return int.from_bytes(digest[:8], "big")


def plan(masks: Mapping[str, Path], images_per_mask: int) -> list[Item]:
    return [
        Item(path, stem, index)
        for stem, path in masks.items()
        for index in range(1, images_per_mask + 1)
    ]


@dataclass(frozen=True)
class Work:
    """What all images of a run have in common; size is (width, height), 0 for the mask's own."""

    pairs: PairFolder
    sources: Sources
    vae: Any
    size: tuple[int, int]
    settings: Settings
    prompt: str

    def run(self, planned: list[Item]) -> Iterator[Path]:
        """Make and save what is not there yet; gives the path of each new image.

        Raises ValueError naming the mask that does not fit, or an image without its mask.
        """
        missing = []
        for item in planned:
            if self.pairs.has(item.name):
                self.pairs.list(item.name, self.prompt)
            else:
                missing.append(item)
        if not missing:
            return
        steps = len(noise_levels(self.sources.model, self.settings)) - 1  # of one image
        total = len(missing) * steps
        show = latent_preview.prepare_callback(self.sources.model, total)
        for number, item in enumerate(missing):
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress = _as_part(show, number * steps, steps, total)
            mask = read_mask(item.mask)
            try:
                image = self._image(item, mask, progress)
            except ValueError as error:
                raise ValueError(f"{item.mask}: {error}") from error
            self.pairs.write(item.name, image, mask, self.prompt)
            yield self.pairs.image(item.name)

    def _image(self, item: Item, mask: Tensor, progress: Callback) -> Tensor:
        """(H, W, 3) in [0, 1]."""
        settings = replace(self.settings, seed=item.seed(self.settings.seed))
        latents = sample_masks(self.sources, mask, self.size, settings, progress)
        return self.vae.decode(latents)[0]


def _as_part(show: Callback, done: int, steps: int, total: int) -> Callback:
    """Progress of one image as part of all: `done` steps came before its own `steps`.

    A sampler that chooses its step sizes itself (dpm_adaptive) may make more; the bar then waits.
    """
    return lambda step, x0, x, _steps: show(done + min(step, steps - 1), x0, x, total)
