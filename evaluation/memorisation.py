"""Does the generator hand out its training images? Nearest neighbours, beside real test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .distances import nearest
from .features import Features
from .intervals import DRAWS, LEVEL
from .pair_sets import PairSet

PIXELS = 32  # side at which pictures are compared pixel by pixel
CLOSE = 0.05  # of real test images are at most this close to a training image
FEWEST = 20  # test images that make such a share known
SHOWN = 8
PIXEL_SPACE = f"pixels at {PIXELS} x {PIXELS}, brightness and contrast evened, all flips and turns"

Embed = Callable[[PairSet], np.ndarray]


def measure_memorisation(
    features: Features, train: PairSet, test: PairSet, synthetic: Sequence[PairSet], seed: int
) -> list[dict[str, Any]]:
    """A row for each synthetic set and each way of comparing images.

    The floor is how near real test images come to training images. A synthetic image is flagged
    when it comes nearer than all but 5 % of them; of fresh images, 5 % would be.
    """
    spaces: list[tuple[str, Embed, bool]] = [
        (PIXEL_SPACE, pixel_vectors, True),
        (f"features of {features.short}", features.of, False),
    ]
    return [
        _row((space, embed, turned), train, test, pairs, seed)
        for pairs in synthetic
        for space, embed, turned in spaces
    ]


def pixel_vectors(pairs: PairSet) -> np.ndarray:
    """(N, 3 * 32 * 32): small pictures with mean 0 and length 1, so that 2 - d^2 is twice their
    correlation."""
    return np.stack([_vector(image) for image in pairs.images])


def _vector(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image).resize((PIXELS, PIXELS), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32)
    values = values - values.mean()
    return (values / max(float(np.linalg.norm(values)), 1e-6)).ravel()


def _nearest_training(
    vectors: np.ndarray, train: np.ndarray, turned: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(training image, distance); pixels are compared in all eight orientations."""
    if not turned:
        return nearest(vectors, train)
    pictures = train.reshape(-1, PIXELS, PIXELS, 3)
    turns = [np.rot90(pictures, k, (1, 2)) for k in range(4)]
    turns += [picture[:, :, ::-1] for picture in turns]
    found = [nearest(vectors, picture.reshape(len(train), -1)) for picture in turns]
    numbers, distances = (np.stack(part) for part in zip(*found, strict=True))
    best = distances.argmin(0), np.arange(len(vectors))
    return numbers[best], distances[best]


def _row(
    by: tuple[str, Embed, bool], train: PairSet, test: PairSet, pairs: PairSet, seed: int
) -> dict[str, Any]:
    space, embed, turned = by
    known = embed(train)
    _, floor = _nearest_training(embed(test), known, turned)
    numbers, distances = _nearest_training(embed(pairs), known, turned)
    row: dict[str, Any] = {
        "set": pairs.name,
        "space": space,
        "n": len(pairs),
        "test_n": len(test),
        "training_n": len(train),
        "floor": _summary(floor),
        "synthetic": _summary(distances),
        "distances": distances.round(5).tolist(),
        "floor_distances": floor.round(5).tolist(),
        "closest": _closest(pairs, train, numbers, distances),
    }
    if len(test) < FEWEST:
        reason = f"{len(test)} test images; at least {FEWEST} make the nearest 5 % known"
        return {**row, "flagged": None, "left_out": reason}
    threshold = float(np.quantile(floor, CLOSE))
    flagged = distances < threshold
    low, high = _interval(distances, floor, seed)
    return {
        **row,
        "threshold": threshold,
        "flagged": {"mean": float(flagged.mean()), "low": low, "high": high},
        "own_mask": float(_own_mask(pairs, train, numbers)[flagged].mean())
        if flagged.any()
        else None,
        "groups": _groups(train, numbers, flagged),
        "floor_groups": _floor_groups(test, floor),
    }


def _interval(distances: np.ndarray, floor: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the flagged share: few test images fix the threshold loosely."""
    rng = np.random.default_rng((seed, 7))
    shares = []
    for _ in range(DRAWS):
        threshold = np.quantile(rng.choice(floor, len(floor)), CLOSE)
        shares.append((rng.choice(distances, len(distances)) < threshold).mean())
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _summary(distances: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(distances, [0.05, 0.5, 0.95])
    return {"min": float(distances.min()), "low": low, "median": middle, "high": high}


def _own_mask(pairs: PairSet, train: PairSet, numbers: np.ndarray) -> np.ndarray:
    """Whether the nearest training image has the mask that the synthetic image was made from."""
    theirs = np.array(train.mask_hashes)[numbers]
    return np.array(pairs.mask_hashes) == theirs


def _closest(
    pairs: PairSet, train: PairSet, numbers: np.ndarray, distances: np.ndarray
) -> list[dict[str, Any]]:
    return [
        {
            "synthetic": str(pairs.pairs[i].image),
            "training": str(train.pairs[numbers[i]].image),
            "group": train.pairs[numbers[i]].group,
            "distance": float(distances[i]),
            "numbers": [int(i), int(numbers[i])],
        }
        for i in np.argsort(distances, kind="stable")[:SHOWN]
    ]


def _groups(
    train: PairSet, numbers: np.ndarray, flagged: np.ndarray
) -> list[dict[str, Any]] | None:
    """For each training group: how many synthetic images are nearest to it, and flagged."""
    if train.groups is None:
        return None
    nearest_to = Counter(train.groups[i] for i in numbers)
    too_near = Counter(train.groups[i] for i in numbers[flagged])
    return [
        {
            "group": group,
            "training": count,
            "nearest": nearest_to[group],
            "flagged": too_near[group],
        }
        for group, count in sorted(Counter(train.groups).items())
    ]


def _floor_groups(test: PairSet, floor: np.ndarray) -> list[dict[str, Any]] | None:
    """For each test group: how near its images come to any training image."""
    if test.groups is None:
        return None
    labels = np.array(test.groups)
    return [
        {
            "group": group,
            "images": int((labels == group).sum()),
            "nearest": float(floor[labels == group].min()),
            "median": float(np.median(floor[labels == group])),
        }
        for group in sorted(set(test.groups))
    ]
