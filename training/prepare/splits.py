"""Which split an item goes to, so that no group is in two of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ...common.files import describe_error
from ...common.hashes import file_hash
from ...common.text import as_bytes
from .items import Item, PrepareError

HELD_OUT = 0.1  # share of the pairs for test, and again for val
SEEN = "_seen"


def assign_splits(items: Sequence[Item]) -> list[Item]:
    """Items with their split: the published one, or else one by group, the same each time.

    Images with the same content are one group. Where a published split parts a group, the pairs
    whose group is in training too become the splits test_seen and val_seen. Raises PrepareError for
    fewer than three groups.
    """
    joined = join_copies(items)
    if any(item.split is None for item in joined):
        return split_by_group(joined)
    trained = {item.group for item in joined if item.split == "train"}
    return [
        replace(item, split=f"{item.split}{SEEN}")
        if item.split != "train" and item.group in trained
        else item
        for item in joined
    ]


def join_copies(items: Sequence[Item]) -> list[Item]:
    """Give groups that share an image file's content one name, that of the first."""
    paths = list(dict.fromkeys(item.image for item in items))
    with ThreadPoolExecutor() as pool:
        content = dict(zip(paths, pool.map(_content, paths), strict=True))
    first: dict[str, str] = {}  # content -> group
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while group in parent:
            group = parent[group]
        return group

    for item in items:
        one, other = root(item.group), root(first.setdefault(content[item.image], item.group))
        if one != other:
            parent[one] = other
    return [replace(item, group=root(item.group)) for item in items]


def _content(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise PrepareError(
            f"{describe_error(error)}. Copy it again, or unpack the archive again; nothing was "
            "written."
        ) from error


def split_by_group(items: Sequence[Item]) -> list[Item]:
    """Hold out about a tenth for each of test and val, whole groups, in the order of a hash.

    The order depends on the groups' names alone. The largest group is always trained on. Raises
    PrepareError for fewer than three groups.
    """
    sizes = Counter(item.group for item in items)
    if len(sizes) < 3:
        raise PrepareError(
            f"{len(items)} pairs in {len(sizes)} groups: train, val and test need a group each. "
            "Add pairs, or name more groups."
        )
    ordered = sorted(sizes, key=lambda group: hashlib.sha256(as_bytes(group)).digest())
    left = [group for group in ordered if group != max(ordered, key=sizes.__getitem__)]
    wanted = max(1, round(HELD_OUT * len(items)))
    test = _take(left, sizes, wanted, at_most=len(left) - 1)
    left = [group for group in left if group not in test]
    val = _take(left, sizes, wanted, at_most=len(left))
    split = {**dict.fromkeys(test, "test"), **dict.fromkeys(val, "val")}
    return [replace(item, split=split.get(item.group, "train")) for item in items]


def _take(groups: Sequence[str], sizes: Counter[str], wanted: int, at_most: int) -> list[str]:
    """Groups, in order, that together have about `wanted` items; at least the smallest one."""
    taken: list[str] = []
    for group in groups:
        if wanted <= 0 or len(taken) == at_most:
            break
        # Taking it must not miss `wanted` by more than leaving it out does.
        if sizes[group] <= 2 * wanted:
            taken.append(group)
            wanted -= sizes[group]
    return taken or [min(groups, key=sizes.__getitem__)]
