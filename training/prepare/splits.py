"""Which split an item goes to, so that no group is in two of them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ...common.hashes import file_hash
from .items import Item, PrepareError

HELD_OUT = {"test": 0.1, "val": 0.1}  # shares of the pairs
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
        content = dict(zip(paths, pool.map(file_hash, paths), strict=True))
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


def split_by_group(items: Sequence[Item]) -> list[Item]:
    """Hold out about a tenth for each of test and val, whole groups, in the order of a hash.

    The order depends on the groups' names alone. A group much larger than what is still wanted
    stays in training. Raises PrepareError for fewer than three groups.
    """
    sizes = Counter(item.group for item in items)
    if len(sizes) < 3:
        raise PrepareError(
            f"{len(items)} pairs in {len(sizes)} groups: train, val and test need a group each. "
            "Add pairs, or name more groups."
        )
    left = sorted(sizes, key=lambda group: hashlib.sha256(group.encode()).digest())
    split: dict[str, str] = defaultdict(lambda: "train")
    for name, share in HELD_OUT.items():
        taken = _take(left, sizes, max(1, round(share * len(items))))
        split |= dict.fromkeys(taken, name)
        left = [group for group in left if group not in split]
    return [replace(item, split=split[item.group]) for item in items]


def _take(groups: Sequence[str], sizes: Counter[str], wanted: int) -> list[str]:
    """Groups, in order, that together have about `wanted` items; at least the smallest one."""
    taken = []
    for group in groups:
        # Taking it must not miss `wanted` by more than leaving it out does.
        if sizes[group] <= 2 * wanted:
            taken.append(group)
            wanted -= sizes[group]
        if wanted <= 0:
            break
    return taken or [min(groups, key=lambda group: sizes[group])]
