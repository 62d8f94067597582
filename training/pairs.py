"""The image-mask pairs of a dataset: a prompt.jsonl, or two folders paired by name."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
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
    """An image, its mask and its caption; `where` names the place it was listed."""

    image: Path
    mask: Path
    caption: str
    where: str

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
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        listing.problems.append(f"not UTF-8 ({error.reason} at byte {error.start})")
        return listing
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            listing.pairs.append(_parse_line(line, path.parent, f"line {number}"))
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
    image_files, mask_files = _pictures(images, masks, listing), _pictures(masks, images, listing)
    if images.resolve() == masks.resolve():
        mask_files = {k: v for k, v in image_files.items() if k.endswith(MASK_ENDINGS)}
        image_files = {k: v for k, v in image_files.items() if k not in mask_files}
    found = {}
    for endings in (("",), MASK_ENDINGS):  # a mask of the very name comes before any other
        for name in image_files.keys() - found.keys():
            matches = [name + ending for ending in endings if name + ending in mask_files]
            if matches:
                found[name] = mask_files.pop(matches[0])
    for name, image in image_files.items():
        if name in found:
            caption = _read_caption(image, caption_suffixes, listing)
            listing.pairs.append(Pair(image, found[name], caption or "", str(image)))
        else:
            listing.problems.append(f"{image}: no mask of this name in {masks}")
    listing.problems += [f"{mask}: no image of this name in {images}" for mask in mask_files.values()]
    if not image_files and not mask_files:
        listing.problems.append(f"{images}: no pictures ({_names(PICTURE_SUFFIXES)})")
    _note_missing_captions(listing, caption_suffixes)
    return listing
