"""From checked pairs to the batch of a step: images, cached latents and text embeddings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ...common.pictures import Size
from ..method.base_model import BaseModel
from ..method.noise_schedule import TIMESTEPS
from ..method.objective import Batch, as_floats
from .batch_order import Share, generator
from .cache import MemoryCache, TensorCache, weights_hash
from .dataset import Dataset
from .draws import Shape, draw_noise, draw_numbers
from .framing import NOT_AUGMENTED, Augmentation, Framing
from .pair_pictures import Job, PairPictures
from .pair_settings import settings_of
from .text_embeddings import TextEmbeddings

CACHE_BATCH = 8

Item = TypeVar("Item")


class TrainingData:
    """The pairs at training size, with latents and text embeddings computed once.

    pairs: as the dataset has them. pictures: their images and masks. sizes: (width, height) in
    pixels of each, the groups of BatchOrder. mask_classes: for the weights' metadata.
    mask_channels: 1 for binary, 3 for palette masks. augmented: with augmentations and caption
    dropout. texts: embeddings of the captions. Both must be prepared before batches are made.
    """

    def __init__(
        self,
        dataset: Dataset,
        framing: Framing,
        cache: TensorCache | None = None,
        augmented: bool = True,
        texts: TextEmbeddings | None = None,
    ) -> None:
        self.pairs = dataset.pairs
        self._augmented = augmented
        self._settings = [settings_of(pair) for pair in dataset.pairs]
        framings = [settings.framing or framing for settings in self._settings]
        self._framings = framings if augmented else [f.without_augmentations() for f in framings]
        self.mask_classes = dataset.mask_classes()
        self.mask_channels = 1 if dataset.mask_mode == "binary" else 3
        self._infos = [dataset.infos[pair] for pair in dataset.pairs]
        self.pictures = PairPictures(dataset, self._framings)
        self.sizes = self.pictures.sizes
        self._cache = cache or MemoryCache()
        self.texts = texts or TextEmbeddings()
        self._autoencoder = ""  # hash of its weights

    def __len__(self) -> int:
        return len(self.pairs)

    # Encoding

    @torch.no_grad()
    def prepare(
        self,
        base: BaseModel,
        device: torch.device,
        quiet: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Encode every image with each of its augmentations, with progress.

        What the cache has already is not encoded again. `part` (k, n): only each n-th image from
        the k-th on. The encoder is on the CPU afterwards.
        """
        self._autoencoder = weights_hash(base.autoencoder.module)
        jobs = self._images_to_encode(part)
        base.autoencoder.module.to(device).eval()
        for job in tqdm(jobs, "latents", disable=quiet):
            _, images = self.pictures.load(job)
            mean, deviation = base.autoencoder.encode(as_floats(images.to(device)))
            for item, *tensors in zip(
                job, mean.float().cpu(), deviation.float().cpu(), strict=True
            ):
                self._cache.save(self._latents_key(*item), *tensors)
        base.autoencoder.module.to("cpu")

    def captions(self) -> Iterator[str]:
        """Those that the pairs are trained with."""
        for pair, settings in zip(self.pairs, self._settings, strict=True):
            yield from (pair.caption, *settings.variants)

    def _images_to_encode(self, part: tuple[int, int]) -> list[list[tuple[int, Augmentation]]]:
        """Batches of (index, augmentation) of one size that the cache lacks, each image once."""
        missing: dict[Size, dict[str, tuple[int, Augmentation]]] = defaultdict(dict)
        for index in range(part[0], len(self), part[1]):
            size = self.sizes[index]
            for augmentation in self._framings[index].augmentations(size):
                key = self._latents_key(index, augmentation)
                if key not in self._cache:
                    missing[size].setdefault(key, (index, augmentation))
        return [
            job for items in missing.values() for job in _chunks([*items.values()], CACHE_BATCH)
        ]

    def _latents_key(self, index: int, augmentation: Augmentation) -> str:
        """Latents of a flipped or rotated image are not the flipped or rotated latents."""
        width, height = self.sizes[index]
        fit = self._framings[index].name
        return (
            f"latents {self._autoencoder} {self._infos[index].digest} {width}x{height} "
            f"{fit} flip={augmentation.flip:d} rotations={augmentation.rotations}"
        )

    # What a step needs

    def masks_and_images(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Masks (B, 1 or 3, H, W) and images (B, 3, H, W), both in [0, 1], not augmented.

        Binary masks have 1 channel and hold 0 and 1, palette masks 3. All pairs must have one
        training size.
        """
        mask, image = self.pictures.load([(index, NOT_AUGMENTED) for index in indices])
        return as_floats(mask), as_floats(image)

    def job(self, indices: Sequence[int], seed: int, step: int, share: Share | None = None) -> Job:
        """Which pictures a share of a step needs; default: all of them."""
        augmentations = self._choose_augmentations(indices, generator(seed, "variant", step))
        share = share or Share.all_of(len(indices))
        return share.of([*zip(indices, augmentations, strict=True)])

    def batch(
        self,
        indices: Sequence[int],
        seed: int,
        step: int,
        caption_dropout: float,
        share: Share | None = None,
        pictures: tuple[Tensor, Tensor] | None = None,
    ) -> Batch:
        """The batch of a step, on the CPU, its pictures as in their files.

        All that is random depends on (seed, step) and the row alone. share: of the rows; default:
        all. pictures: what loading its job gave; default: they are loaded here.
        """
        share = share or Share.all_of(len(indices))
        job = self.job(indices, seed, step, share)
        shape = self._latents_shape(indices)
        uniform, timesteps = draw_numbers(seed, step, shape, len(indices))
        deviate, noise = draw_noise(seed, step, shape, share)
        latents = [self._cache.load(self._latents_key(*item), shape) for item in job]
        mean, deviation = (torch.stack(tensors) for tensors in zip(*latents, strict=True))
        rates = torch.tensor([self._dropout_rate(index, caption_dropout) for index in indices])
        dropped = uniform < rates
        captions = self._choose_captions(indices, generator(seed, "caption", step))
        captions = ["" if d else text for d, text in zip(dropped, captions, strict=True)]
        mask, image = pictures or self.pictures.load(job)
        return Batch(
            latents=mean + deviation * deviate,
            noise=noise,
            timesteps=timesteps[share.rows],
            text=self.texts.load(share.of(captions)),
            mask=mask,
            image=image,
        )

    def timesteps(self, indices: Sequence[int], seed: int, step: int) -> Tensor:
        """(B,) of the whole batch of a step."""
        return draw_numbers(seed, step, self._latents_shape(indices), len(indices))[1]

    def _latents_shape(self, indices: Sequence[int]) -> Shape:
        width, height = self.sizes[indices[0]]
        return 4, height // 8, width // 8

    def _dropout_rate(self, index: int, of_the_run: float) -> float:
        own = self._settings[index].caption_dropout_rate
        return of_the_run if own is None or not self._augmented else own

    def _choose_captions(self, indices: Sequence[int], random: torch.Generator) -> list[str]:
        return _choose(
            [self._settings[i].variants or (self.pairs[i].caption,) for i in indices], random
        )

    def _choose_augmentations(
        self, indices: Sequence[int], random: torch.Generator
    ) -> list[Augmentation]:
        return _choose(
            [self._framings[index].augmentations(self.sizes[index]) for index in indices], random
        )

    def validation_batches(
        self, batch_size: int, seed: int, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Every pair once, the same at every call: fixed noise, timesteps spread evenly.

        `part` (k, n): of the batches only each n-th from the k-th on.
        """
        start = 0
        for number, indices in enumerate(self._batches_of_one_size(batch_size)):
            if number % part[1] == part[0]:
                positions = torch.arange(start, start + len(indices))
                timesteps = (2 * positions + 1) * TIMESTEPS // (2 * len(self))
                yield replace(self.batch(indices, seed, number, 0.0), timesteps=timesteps)
            start += len(indices)

    def _batches_of_one_size(self, batch_size: int) -> list[list[int]]:
        groups: dict[Size, list[int]] = defaultdict(list)
        for index, size in enumerate(self.sizes):
            groups[size].append(index)
        return [batch for group in groups.values() for batch in _chunks(group, batch_size)]

    def examples(self, count: int) -> list[int]:
        """Up to `count` pairs of the most common size, spread evenly, for previews."""
        common, _ = Counter(self.sizes).most_common(1)[0]
        members = [index for index, size in enumerate(self.sizes) if size == common]
        count = min(count, len(members))
        return [members[i * len(members) // count] for i in range(count)]


def _choose(choices: Sequence[Sequence[Item]], random: torch.Generator) -> list[Item]:
    """One of each."""
    if all(len(choice) == 1 for choice in choices):
        return [only for (only,) in choices]
    return [choice[int(torch.randint(len(choice), (), generator=random))] for choice in choices]


def _chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    return [list(items[i : i + size]) for i in range(0, len(items), size)]
