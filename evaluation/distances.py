"""Distances between two sets of feature vectors, by the field's libraries."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import torch
from prdc import compute_prdc
from sklearn.metrics import pairwise_distances, pairwise_distances_argmin_min
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

NEIGHBOURS = 5  # k of precision, recall, density and coverage, as in Naeem et al., ICML 2020


def kid(first: np.ndarray, second: np.ndarray) -> float:
    """Kernel distance (Binkowski et al., ICLR 2018): unbiased squared MMD, cubic kernel.

    Around 0, also below it, for two sets of one distribution. (N, D) and (N, D).
    """
    return float(poly_mmd(torch.from_numpy(first).double(), torch.from_numpy(second).double()))


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance between the two sets' normal distributions. Grows as N falls."""
    metric = FrechetInceptionDistance(_Given(first.shape[1])).set_dtype(torch.float64)
    metric.update(torch.from_numpy(first).double(), real=True)
    metric.update(torch.from_numpy(second).double(), real=False)
    return float(metric.compute())


class _Given(nn.Identity):
    """Features that are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def prdc(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """Precision, recall (Kynkaanniemi et al. 2019), density, coverage (Naeem et al. 2020)."""
    # It prints the counts, and its threads make scikit-learn warn of nothing that matters here.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = compute_prdc(real, generated, NEIGHBOURS)
    return {name: float(value) for name, value in found.items()}


def nearest(of: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of the nearest in `among`, Euclidean distance to it), of each row."""
    return pairwise_distances_argmin_min(of, among)


def nearest_other(of: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row to the nearest other row."""
    distances = pairwise_distances(of)
    np.fill_diagonal(distances, np.inf)
    return distances.min(1)
