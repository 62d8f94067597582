"""Opens every file of a list of pairs once: every problem in one report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from tqdm import tqdm

from .colours import hex_colour, packed
from .hashes import file_hash
from .pair_info import CheckCache, PairInfo, Stamp, stamp, stamps_of
from .pairs import DatasetError, Listing, Pair
from .pictures import mask_reader, pixel_count, read_image
from .pixel_budget import BUDGET
from .processes import is_first_process

MAX_COLOURS = 64
DARK = 32  # of 255: colours up to here are class numbers, not colours
DARKEST_IMAGES = 63  # of 255: what the largest value of 14 bits is in a file of 16


def check_pairs(
    source: str, listing: Listing, mask_mode: str, cache: CheckCache | None = None
) -> dict[Pair, PairInfo]:
    """Open every file once; what was found, each pair once, in the listing's order.

    mask_mode: "binary" or "palette". cache: of this mask_mode; what it knows is not opened. Raises
    DatasetError with everything that is wrong.
    """
    began = time.time_ns()
    pairs = list(dict.fromkeys(listing.pairs))
    known = cache.load(pairs) if cache else {}
    unknown = [pair for pair in pairs if pair not in known]
    with ThreadPoolExecutor() as pool:
        checks = pool.map(lambda pair: _check_pair(pair, mask_mode), unknown)
        hidden = None if is_first_process() else True  # None: a bar on a terminal only
        results = list(tqdm(checks, "checking pairs", len(unknown), leave=False, disable=hidden))
    found = known | {p: info for p, (info, _) in zip(unknown, results, strict=True) if info}
    infos = {pair: found[pair] for pair in pairs if pair in found}
    if cache and unknown:
        cache.save(infos, began)
    problems = listing.problems + [problem for _, of_pair in results for problem in of_pair]
    if not problems:
        problems = _check_images(infos) + _check_masks(infos, mask_mode)
    if problems:
        raise DatasetError(source, problems)
    return infos


def _check_pair(pair: Pair, mask_mode: str) -> tuple[PairInfo | None, list[str]]:
    with BUDGET.take(pixel_count(pair.image) + pixel_count(pair.mask)):
        return _check_decoded(pair, mask_mode)


def _check_decoded(pair: Pair, mask_mode: str) -> tuple[PairInfo | None, list[str]]:
    problems, pictures = [], []
    stamps: tuple[Stamp, ...] = ()
    with suppress(OSError, ValueError):  # reading the files tells why
        # Before they are read: what is changed meanwhile is noticed at its first use.
        stamps = stamps_of(pair)
    readers = {"image": read_image, "mask": mask_reader(mask_mode)}
    for role, path in (("image", pair.image), ("mask", pair.mask)):
        try:
            pictures.append(readers[role](path))
        except ValueError as error:
            problems.append(f"{pair.where}{role} {error}")
    if problems:
        return None, problems
    image, mask = pictures
    height, width = image.shape[:2]
    if mask.shape[:2] != (height, width):
        problems.append(
            f"{pair.where}mask {pair.mask} is {mask.shape[1]}x{mask.shape[0]}, its image "
            f"{pair.image} is {width}x{height}; they must be equal"
        )
    colours: frozenset[int] = frozenset()
    if mask_mode == "palette":
        mask = packed(mask)
        colours = frozenset(np.unique(mask).tolist())
        if len(colours) > MAX_COLOURS:
            problems.append(
                f"{pair.where}mask {pair.mask} has {len(colours)} colours; expected one a class, "
                f"at most {MAX_COLOURS}. Save masks as PNG, without smoothed edges"
            )
    if problems:
        return None, problems
    coverage = float((mask != 0).mean())
    try:
        stamps = stamps or stamps_of(pair)
        digests = file_hash(pair.image), file_hash(pair.mask)
    except OSError as error:  # it was there a moment ago
        return None, [
            f"{pair.where}{error.filename or pair.image}: cannot be read ({error.strerror})"
        ]
    brightest = int(image.max(initial=0))
    return PairInfo((width, height), brightest, coverage, colours, *digests, stamps), []


def check_unchanged(pair: Pair, info: PairInfo) -> None:
    """Raise ValueError where a file is gone, or not the one that was checked."""
    for path, expected in zip((pair.image, pair.mask), info.stamps, strict=False):
        try:
            found = stamp(path)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read any more ({error.strerror})") from error
        if found != expected:
            raise ValueError(
                f"{path}: has changed since training began; a run needs the same data throughout"
            )


def check_sizes(pair: Pair, info: PairInfo, *pictures: np.ndarray) -> None:
    """Raise ValueError unless image and mask, as they were read, have the size that was checked."""
    for path, picture in zip((pair.image, pair.mask), pictures, strict=True):
        height, width = picture.shape[:2]
        if (width, height) != info.size:
            raise ValueError(
                f"{path}: is {width}x{height}, and was {info.size[0]}x{info.size[1]} when it was "
                "checked; a run needs the same data throughout"
            )


def _check_images(infos: Mapping[Pair, PairInfo]) -> list[str]:
    """What no single image shows: that all are dark, as values of 14 bits are in files of 16."""
    brightest = max(info.brightest for info in infos.values())
    if not 0 < brightest <= DARKEST_IMAGES:
        return []
    return [
        f"the brightest value of all {len(infos)} images is {brightest} of 255; expected over "
        f"{DARKEST_IMAGES} in some of them. If their files have more bits than their values, "
        f"multiply all by {255 // brightest}"
    ]


def _check_masks(infos: Mapping[Pair, PairInfo], mask_mode: str) -> list[str]:
    """What no single mask shows: masks that are all empty, or hold class numbers, not colours."""
    if mask_mode == "binary":
        if any(info.coverage for info in infos.values()):
            return []
        return [
            f"all {len(infos)} masks are empty (black); expected a lesion, painted white, in some "
            "of them"
        ]
    colours = set().union(*(info.colours for info in infos.values()))
    brightest = max(max(colour.to_bytes(3, "big")) for colour in colours)
    if len(colours) > MAX_COLOURS:
        return [f"the masks have {len(colours)} colours together; expected at most {MAX_COLOURS}"]
    if len(colours) == 1:
        return [f"all masks have one colour, {hex_colour(*colours)}; expected a colour per class"]
    if brightest < DARK:
        return [
            f"the masks' brightest value is {brightest} of 255: class numbers, not colours, which "
            "the network could hardly tell apart. Save them with a palette, a colour per class"
        ]
    return []
