"""What would make the test set worthless: test images or patients that training has seen."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.pairs import DatasetError
from .pair_sets import PairSet


def check_leaks(train: PairSet, test: PairSet, synthetic: Sequence[PairSet]) -> list[str]:
    """Raise DatasetError naming the files when a test image or group is met in training.

    Returns what is no error but belongs in the report: masks of the test set used for synthesis.
    """
    problems = [*_same_images(train, test), *_same_groups(train, test)]
    for pairs in synthetic:
        problems += _same_images(pairs, test)
        problems += _same_groups(pairs, test)
    if problems:
        raise DatasetError(f"{train.name} and {test.name}", problems)
    return [note for pairs in synthetic for note in _same_masks(pairs, test)]


def _same_images(pairs: PairSet, test: PairSet) -> list[str]:
    known = dict(zip(test.image_hashes, test.pairs, strict=True))
    return [
        f"{pair.where}{pairs.name} image {pair.image} has the pixels of the test image "
        f"{known[content].image}; remove it from one of the two"
        for pair, content in zip(pairs.pairs, pairs.image_hashes, strict=True)
        if content in known
    ]


def _same_groups(pairs: PairSet, test: PairSet) -> list[str]:
    first = {pair.group: pair for pair in reversed(test.pairs) if pair.group is not None}
    seen = {pair.group: pair for pair in reversed(pairs.pairs) if pair.group in first}
    return [
        f'{pair.where}{pairs.name} image {pair.image} is of group "{group}", as is the test image '
        f"{first[group].image}; a group must be wholly in one of the two"
        for group, pair in seen.items()
    ]


def _same_masks(pairs: PairSet, test: PairSet) -> list[str]:
    known = {
        content for content, mask in zip(test.mask_hashes, test.masks, strict=True) if mask.any()
    }
    count = sum(content in known for content in pairs.mask_hashes)
    if not count:
        return []
    return [
        f"{count} of {len(pairs)} masks of {pairs.name} are masks of the test set: whoever made "
        "the images has seen the test annotations, and the gain on the test set is worth less."
    ]
