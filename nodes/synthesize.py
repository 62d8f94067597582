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
from .painting import Backgrounds, paint
from .pair_folder import PairFolder
from .sampling import Callback, Settings, Sources, noise_levels, sample_masks


@dataclass(frozen=True)
class Item:
    """An image to make: number `index`, from 1, of a mask."""

    mask: Path
    stem: str
    index: int

    @property
    def name(self) -> str:
        # Always with a number: a mask called a_2 must not meet the second image of mask a.
        return f"{self.stem}_{self.index}"

    def seed(self, seed: int) -> int:
        """The image's own seed: depends on `seed`, stem and index, not on the other masks."""
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
    """What all images of a run share; size is (width, height) in pixels, 0 for the mask's."""

    pairs: PairFolder
    sources: Sources
    vae: Any
    size: tuple[int, int]
    settings: Settings
    prompt: str
    backgrounds: Backgrounds | None = None

    def run(self, planned: list[Item]) -> Iterator[Path]:
        """Make and save the images that do not exist yet; yield the path of each.

        Raises ValueError with the name of a mask that cannot be used, or of an image without mask.
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
            seed = item.seed(self.settings.seed)
            background = self.backgrounds.image_for(seed) if self.backgrounds else None
            try:
                image = self._image(mask, seed, background, progress)
            except ValueError as error:
                raise ValueError(f"{item.mask}: {error}") from error
            self.pairs.write(item.name, image, mask, self.prompt)
            yield self.pairs.image(item.name)

    def _image(
        self, mask: Tensor, seed: int, background: Tensor | None, progress: Callback
    ) -> Tensor:
        """(H, W, 3) in [0, 1], as large as the background where there is one."""
        settings = replace(self.settings, seed=seed)
        if background is not None and self.backgrounds:
            edge = self.backgrounds.edge
            painting = (background, edge, mask, self.size, settings, progress)
            return paint(self.sources, self.vae, *painting)[0]
        latents = sample_masks(self.sources, mask, self.size, settings, progress)
        return self.vae.decode(latents)[0]


def _as_part(show: Callback, done: int, steps: int, total: int) -> Callback:
    """Progress of one image as part of all: `done` steps came before its own `steps`.

    dpm_adaptive chooses its own step sizes and may make more steps: the bar then waits.
    """
    return lambda step, x0, x, _steps: show(done + min(step, steps - 1), x0, x, total)
