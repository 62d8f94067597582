"""Anyone's pairs: a folder images/ and a folder masks/."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from ...common.text import shortened
from ...common.text_files import read_text
from ..data.listing import read_folders
from .archive import find_pairs, not_found
from .items import Found, Item, PrepareError

GROUPS = "groups.csv"
WHERE = (
    "Masks have the names of their images, also with _mask or _segmentation at the end; captions "
    "are in .txt files beside the images."
)


def read_two_folders(root: Path) -> Found:
    """Pairs by name, also in subfolders. The group of an image is what groups.csv says, or the
    first subfolder that it is in, or itself."""
    folders = list(find_pairs(root, ("images", "image"), ("masks", "mask")))
    if not folders:
        raise not_found("a folder of pairs", root, ["images/ and masks/, side by side"], WHERE)
    if len(folders) > 1:
        several = ", ".join(str(images.parent) for images, _ in folders[:5])
        raise PrepareError(
            f"{root}: {len(folders)} folders in it hold images and masks: {several}; give one of "
            "them, or put all pairs into one"
        )
    images, masks = folders[0]
    listing = read_folders(images, masks)
    found = Found(problems=list(listing.problems), notes=list(listing.notes))
    groups = _read_groups(images.parent / GROUPS)
    stems = {pair.image: pair.image.relative_to(images).with_suffix("") for pair in listing.pairs}
    for pair in listing.pairs:
        stem = stems[pair.image]
        group = groups.pop(stem.as_posix(), stem.parts[0])
        found.items.append(
            Item("_".join(stem.parts), pair.image, (pair.mask,), pair.caption, group)
        )
    if groups:
        unknown = shortened(", ".join(list(groups)[:5]))
        found.problems.append(f"{images.parent / GROUPS}: no image of this name: {unknown}")
    if len({item.group for item in found.items}) == len(found.items):
        found.notes.append(
            "each image counts as a group of its own. Where several show one patient, put them "
            f"into a subfolder a patient, or name their groups in {images.parent / GROUPS}, with "
            "the columns name,group: otherwise pictures of one patient may get into both training "
            "and test."
        )
    return found


def _read_groups(path: Path) -> dict[str, str]:
    """Group by image name without extension. Raises PrepareError for a file that is not so."""
    if not path.exists():
        return {}
    try:
        lines = read_text(path).splitlines(keepends=True)
        # strict: a quotation mark that is not closed would make one group of all that follows.
        rows: list[Mapping[str, str | None]] = list(csv.DictReader(lines, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise PrepareError(
            f"{path}: cannot be read ({error}); expected UTF-8, a first line name,group"
        ) from error
    groups: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name, group = (row.get("name") or "").strip(), (row.get("group") or "").strip()
        if not name or not group:
            raise PrepareError(
                f"{path}: line {number} has no name or no group; expected a first line "
                '"name,group", then an image name without extension and its group a line'
            )
        if groups.setdefault(name, group) != group:
            raise PrepareError(f"{path}: line {number}: {shortened(name)} has two groups")
    return groups
