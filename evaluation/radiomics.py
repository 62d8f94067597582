"""Radiomics features of the masked region: what the lesion looks like, without any network."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch

from .pair_sets import PairSet

CLASSES = ("firstorder", "glcm", "glrlm", "glszm", "ngtdm")
BIN_WIDTH = 25.0  # grey values a level, of 255; pyradiomics' default
SMALLEST = 16  # pixels of a region whose texture means anything
MOST_DEVIATIONS = 5.0
MOST = 1000  # pairs of a set that are looked at
AVAILABLE = sys.version_info >= (3, 11)  # what fastrad asks for
NAME = (
    "radiomics features of the masked region of the grey image (fastrad: first order, GLCM, GLRLM, "
    "GLSZM, NGTDM), each in units of its deviation over the reference set, at most 5"
)


def radiomics(pairs: PairSet) -> np.ndarray:
    """(n, D) for the first 1,000 pairs; a row of NaN where the mask has under 16 pixels."""
    from fastrad import FeatureExtractor, FeatureSettings, Mask, MedicalImage

    extractor = FeatureExtractor(FeatureSettings([*CLASSES], bin_width=BIN_WIDTH, device="cpu"))
    rows: list[list[float]] = []
    for image, mask in zip(pairs.images[:MOST], pairs.masks[:MOST], strict=True):
        if mask.sum() < SMALLEST:
            rows.append([])
            continue
        grey = torch.from_numpy(image.astype(np.float32).mean(-1))[None]
        region = torch.from_numpy(mask.astype(np.float32))[None]
        with warnings.catch_warnings():  # about pixel spacing, which pictures do not have
            warnings.simplefilter("ignore")
            found = extractor.extract(MedicalImage(grey), Mask(region))
        rows.append([float(value) for value in found.values()])
    width = max(map(len, rows), default=0)
    return np.array([row or [np.nan] * width for row in rows], dtype=np.float64)


def comparable(reference: np.ndarray, others: list[np.ndarray]) -> list[np.ndarray]:
    """The reference, then the others, in units of the reference's deviation.

    Features that do not vary there, or that some region lacks, are left out; where none is left,
    all rows are NaN.
    """
    width = max(rows.shape[1] for rows in (reference, *others))
    sets = [  # one whose masks are all too small has no features at all
        rows if rows.shape[1] else np.full((len(rows), width), np.nan)
        for rows in (reference, *others)
    ]
    regions = [rows[~np.isnan(rows).all(1)] for rows in sets]
    usable = np.isfinite(np.concatenate(regions)).all(0)
    if len(regions[0]):
        usable &= regions[0].std(0) > 1e-9
    if not len(regions[0]) or not usable.any():
        return [np.full((len(rows), 1), np.nan) for rows in sets]
    mean, std = regions[0][:, usable].mean(0), regions[0][:, usable].std(0)
    # Clipped: a single odd region would outweigh all others in a covariance.
    units = ((rows[:, usable] - mean) / std for rows in sets)
    return [np.clip(rows, -MOST_DEVIATIONS, MOST_DEVIATIONS) for rows in units]
