"""Does the generator hand out its training images? Nearest neighbours, beside real test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
PIXEL_SPACE = f"pixels at {PIXELS} x {PIXELS}, brightness and contrast evened"

Embed = Callable[[np.ndarray], np.ndarray]  # images (N, H, W, 3), uint8 -> vectors (N, D)


@dataclass(frozen=True)
class Neighbours:
    """The nearest training image of each synthetic image, its distance, and that of test images."""

    numbers: np.ndarray
    distances: np.ndarray
    floor: np.ndarray


def measure_memorisation(
    features: Features, train: PairSet, test: PairSet, synthetic: Sequence[PairSet], seed: int
) -> list[dict[str, Any]]:
    """A row for each synthetic set and each way of comparing images.

    The floor is how near real test images come to training images. A synthetic image is flagged
    when it comes nearer than all but 5 % of them; of fresh images, 5 % would be. Training images
    are tried in all eight orientations, as augmentation may have shown them.
    """
    spaces: dict[str, Embed] = {
        PIXEL_SPACE: pixel_vectors,
        f"features of {features.short}": features.of_images,
    }
    known = {
        space: [embed(images) for images in _orientations(train.images)]
        for space, embed in spaces.items()
    }
    floors = {
        space: _nearest_training(embed(test.images), known[space])[1]
        for space, embed in spaces.items()
    }
    rows = []
    for pairs in synthetic:
        for space, embed in spaces.items():
            numbers, distances = _nearest_training(embed(pairs.images), known[space])
            found = Neighbours(numbers, distances, floors[space])
            rows.append({"space": space, **_row(found, train, test, pairs, seed)})
    return rows


def pixel_vectors(images: np.ndarray) -> np.ndarray:
    """(N, 3 * 32 * 32): small pictures with mean 0 and length 1, so that 2 - d^2 is twice their
    correlation."""
    return np.stack([_vector(image) for image in images])


def _vector(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image).resize((PIXELS, PIXELS), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32)
    values = values - values.mean()
    return (values / max(float(np.linalg.norm(values)), 1e-6)).ravel()


def _orientations(images: np.ndarray) -> Iterator[np.ndarray]:
    """Squares (N, S, S, 3) in all eight orientations."""
    for rotated in (np.rot90(images, k, (1, 2)) for k in range(4)):
        yield np.ascontiguousarray(rotated)
        yield np.ascontiguousarray(rotated[:, :, ::-1])


def _nearest_training(
    vectors: np.ndarray, known: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(training image, distance) of each vector, whatever the training image's orientation."""
    found = [nearest(vectors, train) for train in known]
    numbers, distances = (np.stack(part) for part in zip(*found, strict=True))
    best = distances.argmin(0), np.arange(len(vectors))
    return numbers[best], distances[best]


def _row(
    found: Neighbours, train: PairSet, test: PairSet, pairs: PairSet, seed: int
) -> dict[str, Any]:
    numbers, distances, floor = found.numbers, found.distances, found.floor
    row: dict[str, Any] = {
        "set": pairs.name,
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
    own_mask = _own_mask(pairs, train, numbers)[flagged]
    return {
        **row,
        "threshold": threshold,
        "flagged": {"mean": float(flagged.mean()), "low": low, "high": high},
        "own_mask": float(own_mask.mean()) if flagged.any() else None,
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
