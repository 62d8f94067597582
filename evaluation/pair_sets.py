"""Pairs in memory: read by the trainer's own reader, brought to one size, known by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..common.pair_check import check_pairs
from ..common.pair_info import PairInfo
from ..common.pairs import DatasetError, Pair
from ..common.pictures import pixel_count, read_image, read_mask
from ..common.pixel_budget import BUDGET
from ..common.prompt_jsonl import read_prompt_jsonl


@dataclass(frozen=True)
class PairSet:
    """Pairs of one origin.

    images: (N, S, S, 3), uint8. masks: (N, S, S), bool. image_hashes and mask_hashes: of the
    pixels as they are in the files, so that a copy is known whatever its format.
    """

    name: str
    pairs: tuple[Pair, ...]
    images: np.ndarray
    masks: np.ndarray
    image_hashes: tuple[str, ...]
    mask_hashes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def groups(self) -> tuple[str, ...] | None:
        """The group of each pair; None where the pairs have none."""
        found = tuple(pair.group for pair in self.pairs if pair.group is not None)
        return found if len(found) == len(self) else None

    @property
    def units(self) -> tuple[str, ...]:
        """What no split parts: a pair's group, or its image's content where there is no group."""
        return self.groups or self.image_hashes

    def take(self, indices: Sequence[int] | np.ndarray) -> PairSet:
        """The pairs of these numbers, in this order."""
        chosen = np.asarray(indices, dtype=int)
        return replace(
            self,
            pairs=tuple(self.pairs[i] for i in chosen),
            images=self.images[chosen],
            masks=self.masks[chosen],
            image_hashes=tuple(self.image_hashes[i] for i in chosen),
            mask_hashes=tuple(self.mask_hashes[i] for i in chosen),
        )

    def joined(self, other: PairSet) -> PairSet:
        """These pairs, then the other's."""
        return PairSet(
            f"{self.name} + {other.name}",
            self.pairs + other.pairs,
            np.concatenate([self.images, other.images]),
            np.concatenate([self.masks, other.masks]),
            self.image_hashes + other.image_hashes,
            self.mask_hashes + other.mask_hashes,
        )

    def fingerprint(self) -> str:
        """Changes with any image or mask, and with their order."""
        digest = hashlib.sha256(f"{self.images.shape}".encode())
        for content in (*self.image_hashes, *self.mask_hashes):
            digest.update(content.encode())
        return digest.hexdigest()


def check_files(files: Mapping[str, Path]) -> dict[str, dict[Pair, PairInfo]]:
    """Open every file of every prompt.jsonl once. Raises one DatasetError for all that is wrong."""
    found: dict[str, dict[Pair, PairInfo]] = {}
    failures: list[tuple[Path, DatasetError]] = []
    for name, path in files.items():
        try:
            found[name] = check_pairs(str(path), read_prompt_jsonl(path), "binary")
            _check_groups(path, found[name])
        except DatasetError as error:
            failures.append((path, error))
    if len(failures) == 1:
        raise failures[0][1]
    if failures:
        sources = " and ".join(str(path) for path, _ in failures)
        problems = [f"{path}: {line}" for path, error in failures for line in error.problems]
        raise DatasetError(sources, problems)
    return found


def _check_groups(path: Path, pairs: Mapping[Pair, PairInfo]) -> None:
    without = [pair for pair in pairs if pair.group is None]
    if without and len(without) < len(pairs):
        raise DatasetError(
            path,
            [
                f'{without[0].where}no "group", which {len(pairs) - len(without)} of {len(pairs)} '
                "lines have; give every line its group (patient, video, field of view), or none"
            ],
        )


def load_pairs(name: str, pairs: Sequence[Pair], resolution: int) -> PairSet:
    """Read pairs and stretch them to (resolution, resolution).

    Raises DatasetError naming a file that cannot be read, any more.
    """
    try:
        with ThreadPoolExecutor() as pool:
            read = list(pool.map(lambda pair: _read(pair, resolution), pairs))
    except ValueError as error:
        raise DatasetError(name, [str(error)]) from error
    images, masks, image_hashes, mask_hashes = zip(*read, strict=True)
    return PairSet(name, tuple(pairs), np.stack(images), np.stack(masks), image_hashes, mask_hashes)


def _read(pair: Pair, resolution: int) -> tuple[np.ndarray, np.ndarray, str, str]:
    """Image and mask at that size, and hashes of both as they are in their files."""
    size = (resolution, resolution)
    with BUDGET.take(pixel_count(pair.image) + pixel_count(pair.mask)):
        image, mask = read_image(pair.image), read_mask(pair.mask)
        return (
            np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)),
            np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)),
            _content(image),
            _content(mask),
        )


def _content(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()
