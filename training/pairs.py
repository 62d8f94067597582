"""Image-mask pairs: reading the list of a dataset, and checking every file before training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MASK_THRESHOLD = 127
PROBLEMS_SHOWN = 50


class DatasetError(ValueError):
    """One report of everything that is wrong with a dataset, meant for its owner."""

    def __init__(self, source: Path, problems: list[str]) -> None:
        shown = "".join(f"\n  {problem}" for problem in problems[:PROBLEMS_SHOWN])
        more = len(problems) - PROBLEMS_SHOWN
        rest = f"\n  ... and {more} more" if more > 0 else ""
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(f"{source}: {count} in this dataset; nothing was trained.{shown}{rest}")
        self.problems = problems


@dataclass(frozen=True)
class Pair:
    """An image, its mask and its caption; `where` names the place it was listed."""

    image: Path
    mask: Path
    caption: str
    where: str

    @property
    def stem(self) -> str:
        return self.image.stem


def read_pairs(path: Path) -> list[Pair]:
    """Read a `prompt.jsonl`: {"source": mask, "target": image, "prompt": caption} a line.

    Paths are relative to the file. Raises DatasetError listing every bad line.
    """
    if not path.is_file():
        raise DatasetError(path, ["no such file; give the path of a prompt.jsonl"])
    pairs, problems = [], []
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pairs.append(_parse_line(line, path.parent, f"line {number}"))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if not pairs and not problems:
        problems.append("the file is empty; expected one JSON object a line")
    if problems:
        raise DatasetError(path, problems)
    return pairs


def _parse_line(line: str, folder: Path, where: str) -> Pair:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(entry, dict):
        raise ValueError('expected {"source": mask, "target": image, "prompt": caption}')
    for name in ("source", "target", "prompt"):
        if not isinstance(entry.get(name), str):
            found = ", ".join(map(str, entry)) or "nothing"
            raise ValueError(f'"{name}" must be a string; the line has {found}')
    return Pair(folder / entry["target"], folder / entry["source"], entry["prompt"], where)


@dataclass(frozen=True)
class PairInfo:
    """What checking a pair found: (width, height) in pixels, and the mask's share of it."""

    size: tuple[int, int]
    coverage: float


def check_pairs(source: Path, pairs: Iterable[Pair]) -> list[PairInfo]:
    """Open every file once. Raises DatasetError with all that is wrong, in the dataset's order."""
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(_check_pair, pairs))
    problems = [problem for _, found in results for problem in found]
    if problems:
        raise DatasetError(source, problems)
    return [info for info, _ in results if info is not None]


def _check_pair(pair: Pair) -> tuple[PairInfo | None, list[str]]:
    problems = []
    sizes = {}
    mask = None
    for role, path in (("image", pair.image), ("mask", pair.mask)):
        try:
            array = read_mask(path) if role == "mask" else read_image(path)
            sizes[role] = (array.shape[1], array.shape[0])
            mask = array
        except ValueError as error:
            problems.append(f"{pair.where}: {role} {error}")
    if not problems and sizes["image"] != sizes["mask"]:
        width, height = sizes["image"]
        mask_width, mask_height = sizes["mask"]
        problems.append(
            f"{pair.where}: {pair.mask} is {mask_width}x{mask_height}, its image {pair.image} is "
            f"{width}x{height}; they must be equal"
        )
    if problems or mask is None:
        return None, problems
    return PairInfo(sizes["image"], float(mask.mean())), []


def read_image(path: Path) -> np.ndarray:
    """RGB image (H, W, 3), uint8; 16-bit greys are scaled. Raises ValueError naming the file."""
    image = _open(path)
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image, dtype=np.float32) / 65535 * 255
        return np.repeat(grey.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """Binary mask (H, W), bool: true above half of the file's range. Raises ValueError."""
    image = _open(path)
    if image.mode.startswith("I;16") or image.mode == "I":
        return np.asarray(image, dtype=np.float32) > 32767
    if image.mode == "1":
        return np.asarray(image)
    return np.asarray(image.convert("L")) > MASK_THRESHOLD


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be decoded as an image ({error})") from error
    return image


def resize_pair(
    image: np.ndarray, mask: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Resize to `size` = (width, height): image linearly, mask by nearest neighbour."""
    if (image.shape[1], image.shape[0]) != size:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return image, mask
