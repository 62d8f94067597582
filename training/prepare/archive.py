"""Finding a dataset's folders in what an archive became when it was unpacked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ...common.natural_order import natural
from ...common.pictures import PICTURE_SUFFIXES
from .items import Found, PrepareError

DEPTH = 3  # unpacking tools add a folder of the archive's name, once or twice
PACKED = {".zip", ".rar", ".7z", ".tar", ".gz", ".tgz"}
NAMES_SHOWN = 5


def named(root: Path, name: str) -> Iterator[Path]:
    """Folders of this name, whatever its case: `root` itself or below it, the nearest first."""
    for folder in [root, *_folders(root)]:
        if folder.name.casefold() == name.casefold():
            yield folder


def find_pairs(
    root: Path, images: Collection[str], masks: Collection[str]
) -> Iterator[tuple[Path, Path]]:
    """Two folders beside each other, in `root` or below it: one of each's lower-case names."""
    for folder in [root, *_folders(root)]:
        inside = {path.name.casefold(): path for path in _subfolders(folder)}
        one = next((inside[name] for name in images if name in inside), None)
        other = next((inside[name] for name in masks if name in inside), None)
        if one is not None and other is not None:
            yield one, other


def pictures(folder: Path, ending: str = "") -> dict[str, Path]:
    """Pictures directly in `folder` by stem, in natural order; of the stem, `ending` is cut off.

    Files whose stem does not end so are left out, and hidden ones, which macOS adds.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir(), key=natural):
        stem, kind = path.stem, path.suffix.lower()
        if stem.startswith(".") or kind not in PICTURE_SUFFIXES:
            continue
        if stem.casefold().endswith(ending.casefold()) and path.is_file():
            found[stem[: len(stem) - len(ending)]] = path
    return found


def match(
    found: Found, images: Path, masks: Path, expected: int, ending: str = ""
) -> list[tuple[str, Path, Path]]:
    """(stem, image, mask) of two folders; what is missing is added to the problems.

    expected: pictures that the published archive holds. ending: of a mask's stem.
    """
    sides = {images: pictures(images), masks: pictures(masks, ending)}
    for folder, files in sides.items():
        if len(files) != expected:
            found.problems.append(
                f"{folder}: {len(files)} pictures, the published archive has {expected}; unpack "
                "it again"
            )
    for folder, other in ((images, masks), (masks, images)):
        alone = [path.name for stem, path in sides[folder].items() if stem not in sides[other]]
        if alone:
            found.problems.append(f"{folder}: {_named(alone)}: no such name in {other}")
    return [
        (stem, image, sides[masks][stem])
        for stem, image in sides[images].items()
        if stem in sides[masks]
    ]


def not_found(title: str, root: Path, missing: Sequence[str], where: str) -> PrepareError:
    """The one message for a folder that is not this dataset."""
    try:
        inside = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    except FileNotFoundError:
        return PrepareError(f"{root}: no such folder; expected {title}, unpacked. {where}")
    except NotADirectoryError:
        return PrepareError(f"{root}: is a file; expected the folder that it unpacks to. {where}")
    packed = [name for name in inside if Path(name).suffix.lower() in PACKED]
    unpack = f"\n  still packed: {_named(packed)}; unpack first" if packed else ""
    return PrepareError(
        f"{root}: this is not {title} as it unpacks."
        + "".join(f"\n  missing: {name}" for name in missing)
        + f"\n  found: {_named(inside) if inside else 'an empty folder'}{unpack}\n  {where}"
    )


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Folders below `root`, the nearest first."""
    inside = _subfolders(root)
    yield from inside
    if depth > 1:
        for folder in inside:
            yield from _folders(folder, depth - 1)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    inside = sorted((path for path in folder.iterdir() if path.is_dir()), key=natural)
    return [path for path in inside if not path.name.startswith((".", "__MACOSX"))]
