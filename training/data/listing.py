"""The pairs of two folders, images and masks, paired by name."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...common.natural_order import natural
from ...common.pairs import Listing, Pair
from ...common.pictures import PICTURE_SUFFIXES
from ...common.text_files import read_text
from ...common.visible_files import visible_files

CAPTION_SUFFIXES = (".txt", ".caption")
MASK_ENDINGS = ("_mask", "_segmentation")


def read_folders(
    images: Path, masks: Path, caption_suffixes: Sequence[str] = CAPTION_SUFFIXES
) -> Listing:
    """Pair the images and masks of two folders and their subfolders by relative path, in the
    order of their numbers.

    A mask has its image's name, whatever the extensions, or that name with "_mask" or
    "_segmentation". The two may be one folder if the masks have such a name. The caption is in a
    text file beside the image; without one it is empty.
    """
    listing = Listing()
    missing = [folder for folder in (images, masks) if not _is_folder(folder)]
    if missing:
        listing.problems += [
            f"{folder.absolute()}: no such folder; check the path" for folder in missing
        ]
        return listing
    image_files = _image_files(images, masks, listing)
    if images.resolve() == masks.resolve():
        mask_files = {k: v for k, v in image_files.items() if k.endswith(MASK_ENDINGS)}
        image_files = {k: v for k, v in image_files.items() if k not in mask_files}
    else:
        mask_files = _image_files(masks, images, listing)
    found = _match(image_files, mask_files)
    no_mask = [path for name, path in image_files.items() if name not in found]
    no_image = sorted(set(mask_files.values()) - set(found.values()), key=natural)
    listing.problems += [f"{path}: no mask of this name in {masks}" for path in no_mask]
    listing.problems += [f"{path}: no image of this name in {images}" for path in no_image]
    if not listing.problems and not found:
        kinds = ", ".join(sorted(PICTURE_SUFFIXES))
        listing.problems.append(f"{images}: no images ({kinds})")
    _add_pairs(
        listing, [(image_files[name], mask) for name, mask in found.items()], caption_suffixes
    )
    return listing


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or behind a folder that may not be searched
        return False


def _image_files(folder: Path, other: Path, listing: Listing) -> dict[str, Path]:
    """Image files below `folder`, not in `other`, by relative path without extension."""
    files: dict[str, Path] = {}
    ignored: Counter[str] = Counter()
    skipped = other if folder in other.parents else None

    def unreadable(error: OSError) -> None:
        listing.problems.append(f"{error.filename}: cannot be read ({error.strerror})")

    found = visible_files(folder, unreadable, skipped=skipped)
    for path in sorted(found, key=natural):
        relative = path.relative_to(folder)
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
        listing.notes.append(f"{folder}: files that are not images were left out: {counts}")
    return files


def _match(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """The mask of each image name that has one; an equal name comes before one with an ending."""
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
        file = next((file for file in files if os.path.lexists(file)), None)
        if file is None:
            without.append(image)
        caption = _caption(file, listing) if file else ""
        listing.pairs.append(Pair(image, mask, caption))
    if without:
        expected = " or ".join(caption_suffixes)
        listing.notes.append(
            f"{len(without)} of {len(matched)} images have no {expected} file beside them and "
            f"train with the empty caption; the first: {without[0]}"
        )


def _caption(file: Path, listing: Listing) -> str:
    """A file's text in one line; empty where it cannot be read, which is a problem."""
    try:
        if file.exists() and not file.is_file():
            listing.problems.append(f"{file}: a folder or a device; expected a caption's file")
            return ""
        return " ".join(read_text(file).split())
    except ValueError as error:
        listing.problems.append(f"{file}: {error}")
    except OSError as error:
        listing.problems.append(f"{file}: cannot be read ({error.strerror})")
    return ""
