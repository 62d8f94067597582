"""The masks that pairs are sampled from, all by the code of the nodes."""

from __future__ import annotations

import math

import numpy as np
import torch

from ...models.shapes import Changes, augment, random_mask
from ...tools.nuclei_crops import COVERAGE, SIZE
from ...tools.pairs import Bools

CHANGES = Changes(flip=True, rotation=20.0, scale=0.2, elastic=0.5)  # the node's defaults
EDGE = 16  # pixels drawn on each side and cut off, so that borders cut nuclei as in real crops
RADII = (3.0, 13.0)  # of nuclei, in pixels; much the same within an image


def augmented(mask: Bools, seed: int) -> Bools:
    """Another mask as plausible, by the code of the node SiameseAugmentMask."""
    changed = augment(torch.from_numpy(mask).float(), CHANGES, torch.Generator().manual_seed(seed))
    return changed.numpy() > 0.5


def random_nuclei(seed: int) -> Bools:
    """Nuclei that no real mask has, by the code of the node SiameseRandomMask: (SIZE, SIZE)."""
    rng, side = np.random.default_rng(seed), SIZE + 2 * EDGE
    generator = torch.Generator().manual_seed(seed)
    inner = np.s_[EDGE:-EDGE, EDGE:-EDGE]
    while True:
        share = math.pi * rng.uniform(*RADII) ** 2 / side**2
        count = max(1, round(rng.uniform(*COVERAGE) / share))
        area = (0.7 * share, 1.3 * share)
        mask = random_mask(side, side, count, area, generator)[inner].numpy() > 0.5
        if COVERAGE[0] <= mask.mean() <= COVERAGE[1]:
            return mask
