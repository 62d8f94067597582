"""Where masks come from: files, random shapes, or changed copies of files."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..common.items import hash_number
from ..common.mask_files import is_palette, picture_files, read_mask_of
from ..common.pairs import DatasetError
from ..common.pictures import Size
from ..common.prompt_jsonl import read_prompt_jsonl
from ..common.text import printable, same_name, shown
from ..models.shapes import Changes, augment, random_mask
from .errors import SynthesisError

Classes = Mapping[str, str]  # of the weights' metadata
LONGEST_STEM = 200  # bytes; file systems take 255, and names get numbers and an ending


class Mask(Protocol):
    """One mask, not read yet; equal ones hold the same pixels."""

    def read(self, classes: Classes) -> np.ndarray:
        """(H, W), bool, or (H, W, 3), uint8, for weights trained on palette masks.

        Raises ValueError that names the mask.
        """


class MaskSource(Protocol):
    """Masks by number; those of a million files are names until one is read."""

    def __len__(self) -> int: ...

    def stem(self, number: int) -> str: ...

    def caption(self, number: int) -> str: ...

    def mask(self, number: int) -> Mask: ...

    def fingerprint(self) -> str:
        """Changes with the names, captions and kind of the masks, not with their pixels."""


@dataclass(frozen=True)
class FileMask:
    path: str

    def read(self, classes: Classes) -> np.ndarray:
        return read_mask_of(classes, Path(self.path))


@dataclass(frozen=True)
class MaskFiles:
    """Masks in files, each with its caption."""

    stems: list[str]
    paths: list[str]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.stems)

    def stem(self, number: int) -> str:
        return self.stems[number]

    def caption(self, number: int) -> str:
        return self.captions[number]

    def mask(self, number: int) -> FileMask:
        return FileMask(self.paths[number])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for stem, caption in zip(self.stems, self.captions, strict=True):
            digest.update(f"{stem}\0{caption}\0".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class ShapeSettings:
    """Random masks: lesions in each, and the range of their areas as shares of the image."""

    lesions: int = 1
    area: tuple[float, float] = (0.03, 0.15)


@dataclass(frozen=True)
class RandomMask:
    seed: int
    size: Size
    shapes: ShapeSettings

    def read(self, classes: Classes) -> np.ndarray:
        _refuse_palette(classes, "random")
        generator = torch.Generator().manual_seed(self.seed)
        mask = random_mask(*self.size, self.shapes.lesions, self.shapes.area, generator)
        return mask.numpy() > 0


@dataclass(frozen=True)
class RandomMasks:
    """`count` masks of lesion-like shapes; each depends on the seed and its own number alone."""

    count: int
    size: Size
    shapes: ShapeSettings
    seed: int
    prompt: str

    def __len__(self) -> int:
        return self.count

    def stem(self, number: int) -> str:
        return f"random_{number + 1}"

    def caption(self, _number: int) -> str:
        return self.prompt

    def mask(self, number: int) -> RandomMask:
        return RandomMask(hash_number(f"{self.seed}/{number}/mask"), self.size, self.shapes)

    def fingerprint(self) -> str:
        return repr(self)


@dataclass(frozen=True)
class AugmentedMask:
    original: FileMask
    seed: int
    changes: Changes

    def read(self, classes: Classes) -> np.ndarray:
        _refuse_palette(classes, "augmented")
        mask = torch.from_numpy(self.original.read(classes)).float()
        generator = torch.Generator().manual_seed(self.seed)
        try:
            return augment(mask, self.changes, generator).numpy() > 0
        except ValueError as error:
            raise ValueError(f"{self.original.path}: {error}") from error


@dataclass(frozen=True)
class AugmentedMasks:
    """`variants` changed copies of each mask; each depends on its name and number alone."""

    originals: MaskFiles
    variants: int
    changes: Changes
    seed: int

    def __len__(self) -> int:
        return len(self.originals) * self.variants

    def stem(self, number: int) -> str:
        original, variant = divmod(number, self.variants)
        return f"{self.originals.stem(original)}_augmented_{variant + 1}"

    def caption(self, number: int) -> str:
        return self.originals.caption(number // self.variants)

    def mask(self, number: int) -> AugmentedMask:
        seed = hash_number(f"{self.seed}/{self.stem(number)}/mask")
        return AugmentedMask(self.originals.mask(number // self.variants), seed, self.changes)

    def fingerprint(self) -> str:
        return f"{self.originals.fingerprint()} {self.variants} {self.changes} {self.seed}"


def _refuse_palette(classes: Classes, kind: str) -> None:
    if is_palette(classes):
        raise SynthesisError(
            f"{kind} masks are black and white, and these weights were trained on palette masks; "
            "give masks with their colours."
        )


def pictures_below(folder: Path, flag: str) -> dict[str, Path]:
    """As `picture_files`; raises SynthesisError that names the flag."""
    if not folder.is_dir():
        raise SynthesisError(f"{flag} {folder}: no such folder. Check the path.")
    try:
        return picture_files(folder, subfolders=True)
    except (ValueError, OSError) as error:
        raise SynthesisError(f"{flag} {error}") from error


def folder_of_masks(folder: Path, prompt: str) -> MaskFiles:
    """Every mask below a folder, in natural order. Raises SynthesisError."""
    files = pictures_below(folder, "--masks")
    for stem, path in files.items():
        if problem := _wrong_stem(stem):
            raise SynthesisError(f"--masks {path.parent}: mask {shown(path.name)}: {problem}.")
    return MaskFiles([*files], [str(path) for path in files.values()], [prompt] * len(files))


def listed_masks(path: Path) -> MaskFiles:
    """The masks of a prompt.jsonl with its captions; its images need not exist.

    A mask's stem is its path below the folder that they all are in. A mask that is listed twice
    with one caption counts once. Raises DatasetError for lines that are wrong.
    """
    listing = read_prompt_jsonl(path)
    captions: dict[str, str] = {}
    for pair in listing.pairs:
        mask = os.path.normpath(pair.mask.absolute())
        if pair.mask == path.parent or not Path(mask).name:
            listing.problems.append(f'{pair.where}"source" names no file; give the mask\'s path')
        elif captions.setdefault(mask, pair.caption) != pair.caption:
            listing.problems.append(
                f"{pair.where}mask {pair.mask} has another caption than in a line before; one "
                "mask has one caption"
            )
    stems = _stems([*captions], listing.problems)
    listing.problems += [
        f"mask {shown(stem)}: {problem}" for stem in stems if (problem := _wrong_stem(stem))
    ]
    listing.problems += [
        f"{count} masks are called {shown(stem)}, but for extensions, case or how accents are "
        "written; keep or rename one of them"
        for stem, count in Counter(map(same_name, stems)).items()
        if count > 1
    ]
    if listing.problems:
        raise DatasetError(path, listing.problems)
    return MaskFiles(stems, [*captions], [*captions.values()])


def _stems(masks: Sequence[str], problems: list[str]) -> list[str]:
    """Absolute paths below the folder that they all are in; a problem where there is none."""
    if not masks:
        return []
    try:
        folder = os.path.commonpath([Path(mask).parent for mask in masks])
    except ValueError:  # Windows' drives
        problems.append("the masks are on several drives; copy them below one folder")
        return []
    return [Path(os.path.relpath(mask, folder)).with_suffix("").as_posix() for mask in masks]


def _wrong_stem(stem: str) -> str:
    """Why a mask's pairs cannot be called by it, and what to do; nothing where they can."""
    if printable(stem) != stem:
        return "a name that is not UTF-8 text; rename it"
    longest = max(len(part.encode()) for part in stem.split("/"))
    if longest > LONGEST_STEM:
        return f"a name of {longest} bytes; rename it, at most {LONGEST_STEM} are written"
    return ""
