"""A whole dataset from a folder of masks, one batch of images in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import latent_preview
import torch
from einops import rearrange
from torch import Tensor

from ..common.backgrounds import Backgrounds
from ..common.items import item_name, item_seed
from ..common.size_batches import SizeBatches
from ..models.contrast import with_random_contrast
from .conditioning import siamese
from .control import EncodedMasks
from .folders import read_mask
from .hints import mask_hint, palette_hint
from .painting import paint
from .pair_folder import PairFolder
from .sampling import Callback, Settings, Sources, noise_levels, sample_hints, samples_alone


@dataclass(frozen=True)
class Item:
    """An image to make: number `index`, from 1, of a mask."""

    mask: Path
    stem: str
    index: int

    @property
    def name(self) -> str:
        return item_name(self.stem, self.index)

    def seed(self, seed: int) -> int:
        """The image's own seed."""
        return item_seed(seed, self.stem, self.index)


def plan(masks: Mapping[str, Path], images_per_mask: int) -> list[Item]:
    return [
        Item(path, stem, index)
        for stem, path in masks.items()
        for index in range(1, images_per_mask + 1)
    ]


Loaded = tuple[Item, Tensor]  # with its mask, as `read_mask` has it


@dataclass
class Work:
    """What all images of a run share.

    size: (width, height) in pixels, 0 for the mask's. batch_size: images that are sampled at once.
    least_contrast: the smallest share of its contrast that an image may keep.
    """

    pairs: PairFolder
    sources: Sources
    vae: Any
    size: tuple[int, int]
    settings: Settings
    prompt: str
    backgrounds: Backgrounds | None = None
    batch_size: int = 1
    least_contrast: float = 1.0
    _done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        control = siamese(self.sources.control_net).copy()
        control.encoded = EncodedMasks()  # each mask once, however many images it has
        self.sources = replace(self.sources, control_net=control)

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
        for batch in self._batches(missing):
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress = _as_part(show, self._done * steps, len(batch), steps, total)
            yield from self._make(batch, progress)
            self._done += len(batch)

    def _batches(self, items: list[Item]) -> Iterator[list[Loaded]]:
        """Items whose masks have one size together, with these; those with backgrounds alone."""
        alone = samples_alone(self.settings.sampler_name) or self.backgrounds is not None
        batches = SizeBatches[Loaded](1 if alone else self.batch_size)
        classes = self.sources.control_net.mask_classes
        for item in items:
            mask = read_mask(item.mask, classes)
            yield from batches.add(mask.shape, (item, mask))
        yield from batches.rest()

    def _make(self, batch: list[Loaded], progress: Callback) -> Iterator[Path]:
        items = [item for item, _ in batch]
        try:
            images = self._images(batch, progress)
        except ValueError as error:
            raise ValueError(f"{items[0].mask}: {error}") from error
        for (item, mask), image in zip(batch, images, strict=True):
            self.pairs.write(item.name, image, mask, self.prompt)
            yield self.pairs.image(item.name)

    def _images(self, batch: list[Loaded], progress: Callback) -> Tensor:
        """(B, H, W, 3) in [0, 1], as large as the background where there is one."""
        control = self.sources.control_net
        control.encoded.names = [item.mask for item, _ in batch]
        seeds = [item.seed(self.settings.seed) for item, _ in batch]
        if self.backgrounds is not None:
            return self._painted(batch[0][1], seeds[0], self.backgrounds, progress)
        masks = torch.cat([mask for _, mask in batch])
        as_hint = palette_hint if masks.ndim == 4 else mask_hint
        hints = as_hint(masks, control.hint_channels)
        latents = sample_hints(self.sources, hints, self.size, self.settings, seeds, progress)
        images = rearrange(self.vae.decode(latents), "b h w c -> b c h w")
        channels = rearrange(masks, "b h w c -> b c h w") if masks.ndim == 4 else masks[:, None]
        images = with_random_contrast(images, channels, seeds, self.least_contrast)
        return rearrange(images, "b c h w -> b h w c")

    def _painted(
        self, mask: Tensor, seed: int, backgrounds: Backgrounds, progress: Callback
    ) -> Tensor:
        """(1, H, W, 3). Raises ValueError for a palette mask, which no background can have."""
        if mask.ndim == 4:
            raise ValueError(
                "these weights were trained on palette masks; lesions of one class only are "
                "painted into backgrounds. Leave backgrounds empty."
            )
        settings = replace(self.settings, seed=seed)
        background = torch.from_numpy(backgrounds.pixels_for(seed))[None] / 255
        painting = (background, backgrounds.edge, mask, self.size, settings, progress)
        return paint(self.sources, self.vae, *painting)


def _as_part(show: Callback, done: int, images: int, steps: int, total: int) -> Callback:
    """Progress of a batch as part of all: `done` steps came before its own images' `steps`.

    dpm_adaptive chooses its own step sizes and may make more steps: the bar then waits.
    """
    return lambda step, x0, x, _steps: show(
        min(done + images * min(step + 1, steps), total) - 1, x0, x, total
    )
