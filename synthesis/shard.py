"""The one function behind every engine: items -> pairs in files, each of them once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch

from ..common.backgrounds import Backgrounds
from ..common.mask_files import stretched
from ..common.pair_files import PairFiles
from ..common.pictures import Size
from ..common.pixel_budget import LARGEST_SAMPLED
from ..common.size_batches import SizeBatches
from .errors import StoppedError, SynthesisError
from .masks import Classes
from .painting import Canvas
from .plan import Item

DOWNSCALE = 8  # pixels of an image to one of its latents
THREADS = 4  # that decode masks and encode images beside the sampling
AHEAD = 2  # batches of masks decoded before their turn
MOST_CANVASES_AHEAD = 4  # backgrounds are large
OUT_OF_MEMORY = (torch.cuda.OutOfMemoryError, MemoryError)


@dataclass(frozen=True)
class Wanted:
    """An item and its mask at the size that is sampled: (H, W), bool, or (H, W, 3), uint8.

    canvas: what its lesion is painted into, where it is; the image is then as large as that.
    """

    item: Item
    mask: np.ndarray
    canvas: Canvas | None = None

    @property
    def saved_mask(self) -> np.ndarray:
        """The mask at the image's size."""
        return self.canvas.mask if self.canvas else self.mask


class ImageModel(Protocol):
    """What makes images; where it takes its memory is its own affair."""

    def images(self, batch: Sequence[Wanted]) -> Sequence[np.ndarray]:
        """An image (H, W, 3), uint8, for each; all masks have one size, and all or none a canvas.

        Each depends on its own item and mask alone. Raises FloatingPointError where an image is
        not finite.
        """


@dataclass(frozen=True)
class Outcome:
    """What became of an item: made now, there before, or failed; then `problem` says why."""

    name: str
    state: Literal["made", "there", "failed"]
    problem: str = ""


@dataclass(frozen=True)
class Masking:
    """How masks are read: the weights' classes, and the size (width, height) that is sampled.

    size: None for each mask's own. backgrounds: what lesions are painted into; `seed`, the run's,
    decides which.
    """

    classes: Classes
    size: Size | None
    backgrounds: Backgrounds | None = None
    seed: int = 0

    def read(self, item: Item) -> Wanted:
        """The item and its mask, by nearest neighbour at the sizes needed. Raises ValueError."""
        mask = item.mask.read(self.classes)
        height, width = mask.shape[:2]
        size = self.size or (width, height)
        if size[0] % DOWNSCALE or size[1] % DOWNSCALE:
            raise ValueError(
                f"mask {item.stem} is {width}x{height} pixels; images are made in multiples of "
                f"{DOWNSCALE}: give --resolution, to which masks are stretched"
            )
        if max(size) > LARGEST_SAMPLED:
            raise ValueError(
                f"mask {item.stem} is {width}x{height} pixels; images of at most {LARGEST_SAMPLED} "
                "in either direction are made: give --resolution, to which masks are stretched"
            )
        sampled = mask if size == (width, height) else stretched(mask, size)
        if self.backgrounds is None:
            return Wanted(item, sampled)
        return Wanted(item, sampled, Canvas.of(mask, self.backgrounds, item.seed(self.seed)))


def synthesize_shard(
    items: Iterable[Item], model: ImageModel, files: PairFiles, masking: Masking, batch_size: int
) -> Iterator[Outcome]:
    """Make the pairs that are not there yet, and tell of each item what became of it.

    Run again, after whatever ended it, it makes what is missing and leaves the rest as it is.
    Memory does not grow with the number of items. Raises OSError where nothing can be written, and
    StoppedError where there is no memory for one image.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        batches = SizeBatches[Wanted](batch_size)
        ahead = AHEAD * batch_size
        if masking.backgrounds:
            ahead = min(ahead, MOST_CANVASES_AHEAD)
        writing = Writing(pool, files)
        for found in _read_ahead(items, files, masking, pool, ahead):
            if isinstance(found, Outcome):
                yield found
                continue
            for batch in batches.add(found.mask.shape, found):
                yield from writing.exchange(_sample(model, batch, batches))
        for batch in batches.rest():
            yield from writing.exchange(_sample(model, batch, batches))
        yield from writing.exchange([])


def _read_ahead(
    items: Iterable[Item], files: PairFiles, masking: Masking, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Wanted | Outcome]:
    """In the items' order, `ahead` of them being read while the caller works."""
    reading: deque[Future[Wanted | Outcome]] = deque()
    for item in items:
        reading.append(pool.submit(_look, item, files, masking))
        if len(reading) > ahead:
            yield reading.popleft().result()
    while reading:
        yield reading.popleft().result()


def _look(item: Item, files: PairFiles, masking: Masking) -> Wanted | Outcome:
    """What is there of an item; its mask, where an image is to be made."""
    image_there, mask_there = files.image(item.name).exists(), files.mask(item.name).exists()
    if image_there and mask_there:
        return Outcome(item.name, "there")
    try:
        wanted = masking.read(item)
    except SynthesisError:
        raise
    except ValueError as error:
        return Outcome(item.name, "failed", str(error))
    if image_there:
        files.write_mask(item.name, mask_pixels(wanted.saved_mask))
        return Outcome(item.name, "made")
    return wanted


def mask_pixels(mask: np.ndarray) -> np.ndarray:
    """As in the file: 0 and 255, or a palette mask's colours."""
    return mask.astype(np.uint8) * 255 if mask.dtype == bool else mask


Sampled = tuple[Wanted, np.ndarray | None]  # without an image where it was not finite


def _sample(
    model: ImageModel, batch: Sequence[Wanted], batches: SizeBatches[Wanted]
) -> list[Sampled]:
    """The images of a batch: in halves where memory is short, and one by one if one is bad."""
    try:
        return [*zip(batch, model.images(batch), strict=True)]
    except OUT_OF_MEMORY as error:
        if len(batch) == 1:
            height, width = batch[0].mask.shape[:2]
            raise StoppedError(
                f"out of memory for one image of {width}x{height} pixels ({error}); give a smaller "
                "--resolution, or --mixed_precision bf16"
            ) from error
        batches.size = min(batches.size, len(batch) // 2)  # for what comes, too
    except FloatingPointError:
        if len(batch) == 1:
            return [(batch[0], None)]
    found: list[Sampled] = []
    while rest := batch[len(found) :]:
        found += _sample(model, rest[: min(len(batch) // 2, batches.size)], batches)
    return found


@dataclass
class Writing:
    """Encodes and writes the pairs of one batch while the next one is sampled."""

    pool: ThreadPoolExecutor
    files: PairFiles
    _pending: list[Future[Outcome]] = field(default_factory=list)

    def exchange(self, sampled: Sequence[Sampled]) -> Iterator[Outcome]:
        """Begin to write these, and tell of those before."""
        before, self._pending = (
            self._pending,
            [self.pool.submit(self._write, *one) for one in sampled],
        )
        for future in before:
            yield future.result()

    def _write(self, wanted: Wanted, image: np.ndarray | None) -> Outcome:
        name = wanted.item.name
        if image is None:
            return Outcome(
                name,
                "failed",
                f"{self.files.image(name)}: not saved, the image holds values that are not finite; "
                "use --mixed_precision bf16 or no, or other weights",
            )
        if not self.files.mask(name).exists():
            self.files.write_mask(name, mask_pixels(wanted.saved_mask))
        self.files.write_image(name, image)
        return Outcome(name, "made")
