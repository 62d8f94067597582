"""How like real test images a set of images is, and how varied, seen by a segmenter's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import pairwise_distances

from ...evaluation.distances import frechet, kid, prdc
from ...evaluation.features import Features, own_features
from ...evaluation.settings import Settings
from ...evaluation.store import Store
from ...tools.nuclei_crops import SIZE, read_crops
from ...tools.pairs import Bytes
from .crop_sets import crop_set

FEATURES = "features"  # its folder in OUT
STEPS = 1000


class Likeness:
    """Measures in features of a segmenter that was trained on half of the training crops."""

    def __init__(self, out: Path) -> None:
        """Train it, or load it where that was done before."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        settings = Settings(resolution=SIZE, seeds=1, steps=STEPS, device=device)
        train = crop_set("train", read_crops("train"))
        self.features: Features = own_features(train, settings, Store(out / FEATURES))

    @cached_property
    def reference(self) -> np.ndarray:
        """Of the real test images, which no generator saw."""
        return self.features.of(crop_set("test", read_crops("test")))

    def fidelity(self, images: Sequence[Bytes]) -> dict[str, float]:
        """Against the real test images, at equal n, so that the Frechet distance compares."""
        return self._figures(self.features.of_images(np.stack(images)))

    def floor(self) -> dict[str, float]:
        """What as many real training images reach, which the features have not seen."""
        unseen = self.features.of(self.features.unseen)
        chosen = np.random.default_rng(0).choice(len(unseen), len(self.reference), replace=False)
        return self._figures(unseen[chosen])

    def _figures(self, vectors: np.ndarray) -> dict[str, float]:
        return {
            "kid": kid(self.reference, vectors),
            "frechet": frechet(vectors, self.reference),
            **prdc(self.reference, vectors),
        }

    def spread(self, images: Sequence[Bytes], repeats: int) -> float:
        """Mean distance of two images of one mask; each mask has `repeats` images in a row."""
        vectors = self.features.of_images(np.stack(images))
        of_masks = vectors.reshape(-1, repeats, vectors.shape[1])
        sums = [pairwise_distances(rows).sum() for rows in of_masks]
        return float(np.mean(sums) / (repeats * (repeats - 1)))
