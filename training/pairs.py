"""The image-mask pairs of a dataset: a prompt.jsonl, or two folders paired by name."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

PROBLEMS_SHOWN = 50
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
CAPTION_SUFFIXES = (".txt", ".caption")
MASK_ENDINGS = ("_mask", "_segmentation")


class DatasetError(ValueError):
    """One report of everything that is wrong with a dataset, meant for its owner."""

    def __init__(self, source: object, problems: Sequence[str]) -> None:
        shown = "".join(f"\n  {problem}" for problem in problems[:PROBLEMS_SHOWN])
        more = len(problems) - PROBLEMS_SHOWN
        rest = f"\n  ... and {more} more" if more > 0 else ""
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(f"{source}: {count} in this dataset; nothing was trained.{shown}{rest}")
        self.problems = list(problems)


@dataclass(frozen=True)
class Pair:
    """An image, its mask and its caption; `where` begins messages about it ("line 3: ")."""

    image: Path
    mask: Path
    caption: str
    where: str = ""

    @property
    def stem(self) -> str:
        return self.image.stem


@dataclass
class Listing:
    """The pairs found, what is wrong, and what the owner should know."""

    pairs: list[Pair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __iadd__(self, other: Listing) -> Listing:
        self.pairs += other.pairs
        self.problems += other.problems
        self.notes += other.notes
        return self


# A list of pairs


def read_prompt_jsonl(path: Path) -> Listing:
    """Read {"source": mask, "target": image, "prompt": caption} lines; paths relative to the file.

    The published data calls such a file prompt.json.
    """
    listing = Listing()
    try:
        # Not splitlines(): captions may hold U+2028 and others that it takes for line ends.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        listing.problems.append(f"not UTF-8 ({error.reason} at byte {error.start})")
        return listing
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            listing.pairs.append(_parse_line(line, path.parent, f"line {number}: "))
        except ValueError as error:
            listing.problems.append(f"line {number}: {error}")
    if not listing.pairs and not listing.problems:
        listing.problems.append("the file is empty; expected one JSON object a line")
    return listing


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
    image, mask = entry["target"].strip(), entry["source"].strip()
    return Pair(folder / image, folder / mask, entry["prompt"], where)


# Two folders


def read_folders(
    images: Path, masks: Path, caption_suffixes: Sequence[str] = CAPTION_SUFFIXES
) -> Listing:
    """Pair the pictures of two folders and their subfolders by relative path, in natural order.

    A mask has its image's name, whatever the extensions, or that name with "_mask" or
    "_segmentation". The two may be one folder if the masks have such a name. The caption is in a
    text file beside the image; without one it is empty.
    """
    listing = Listing()
    missing = [folder for folder in (images, masks) if not folder.is_dir()]
    if missing:
        listing.problems += [f"{folder.absolute()}: no such folder" for folder in missing]
        return listing
    image_files = _pictures(images, masks, listing)
    if images.resolve() == masks.resolve():
        mask_files = {k: v for k, v in image_files.items() if k.endswith(MASK_ENDINGS)}
        image_files = {k: v for k, v in image_files.items() if k not in mask_files}
    else:
        mask_files = _pictures(masks, images, listing)
    found = _match(image_files, mask_files)
    no_mask = [path for name, path in image_files.items() if name not in found]
    no_image = sorted(set(mask_files.values()) - set(found.values()), key=natural)
    listing.problems += [f"{path}: no mask of this name in {masks}" for path in no_mask]
    listing.problems += [f"{path}: no image of this name in {images}" for path in no_image]
    if not listing.problems and not found:
        kinds = ", ".join(sorted(PICTURE_SUFFIXES))
        listing.problems.append(f"{images}: no pictures ({kinds})")
    _add_pairs(
        listing, [(image_files[name], mask) for name, mask in found.items()], caption_suffixes
    )
    return listing


def natural(path: PurePath) -> list[int | str]:
    """Sort key: frame2 before frame10."""
    parts = re.split(r"(\d+)", path.as_posix().casefold())
    return [int(part) if part.isdecimal() else part for part in parts]


def _pictures(folder: Path, other: Path, listing: Listing) -> dict[str, Path]:
    """Pictures below `folder`, not in `other`, by relative path without extension."""
    files: dict[str, Path] = {}
    ignored: Counter[str] = Counter()
    skipped = other if folder in other.parents else None
    for path in sorted(folder.rglob("*"), key=natural):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or not path.is_file() or (skipped and skipped in path.parents):
            continue
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            ignored[path.suffix.lower() or path.name] += 1
            continue
        # A Mac may have spelt an accent in two characters in one of the folders.
        name = unicodedata.normalize("NFC", relative.with_suffix("").as_posix())
        if name in files:
            listing.problems.append(f"{path}: has the name of {files[name].name}; keep one of them")
        files.setdefault(name, path)
    for suffix in CAPTION_SUFFIXES:
        ignored.pop(suffix, None)
    if ignored:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items()))
        listing.notes.append(f"{folder}: files that are no pictures were left out: {counts}")
    return files


def _match(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """The mask of each image name that has one; the very name comes before one with an ending."""
    found = {name: masks[name] for name in images if name in masks}
    taken = set(found.values())
    for name in images:
        ended = [masks[name + ending] for ending in MASK_ENDINGS if name + ending in masks]
        free = [path for path in ended if path not in taken]
        if name not in found and free:
            found[name] = free[0]
    return {name: found[name] for name in images if name in found}


def _add_pairs(
    listing: Listing, matched: Sequence[tuple[Path, Path]], caption_suffixes: Sequence[str]
) -> None:
    """Read the captions. A missing one is noted, an unreadable one is a problem."""
    without = []
    for image, mask in matched:
        files = [image.with_suffix(suffix) for suffix in caption_suffixes]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            without.append(image)
        try:
            caption = " ".join(file.read_text(encoding="utf-8-sig").split()) if file else ""
        except UnicodeDecodeError as error:
            caption = ""
            listing.problems.append(f"{file}: not UTF-8 ({error.reason} at byte {error.start})")
        listing.pairs.append(Pair(image, mask, caption))
    if without:
        expected = " or ".join(caption_suffixes)
        listing.notes.append(
            f"{len(without)} of {len(matched)} images have no {expected} file beside them and "
            f"train with the empty caption; the first: {without[0]}"
        )
