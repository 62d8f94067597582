"""How well predicted masks agree with true ones, by MONAI's metrics."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou

METRICS = ("dice", "iou", "hd95")


def overlap(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice, IoU and HD95 of each mask: (N, H, W), bool, twice -> (N, 3).

    HD95 is the 95th percentile of the distances between the two outlines, in pixels. Two empty
    masks agree (1, 1, 0); where one is empty the others are 0, 0 and the picture's diagonal.
    """
    first, second = (
        torch.from_numpy(masks[:, None].astype(np.float32)) for masks in (predicted, true)
    )
    dice = compute_dice(first, second, ignore_empty=False)[:, 0]
    iou = compute_iou(first, second, ignore_empty=False)[:, 0]
    return np.stack([dice.numpy(), iou.numpy(), _hd95(predicted, true)], axis=1).astype(np.float64)


def dice(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice of each mask: (N, H, W), bool, twice -> (N,)."""
    first, second = (
        torch.from_numpy(masks[:, None].astype(np.float32)) for masks in (predicted, true)
    )
    return compute_dice(first, second, ignore_empty=False)[:, 0].numpy().astype(np.float64)


def _hd95(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    has_first, has_second = predicted.any((1, 2)), true.any((1, 2))
    both = has_first & has_second
    distances = np.where(has_first == has_second, 0.0, math.hypot(*true.shape[1:]))
    if both.any():
        first, second = (
            torch.from_numpy(masks[both][:, None].astype(np.float32)) for masks in (predicted, true)
        )
        with warnings.catch_warnings():  # MONAI 1.6 warns of an argument it gives itself
            warnings.simplefilter("ignore", FutureWarning)
            found = compute_hausdorff_distance(
                first, second, include_background=True, percentile=95
            )
        distances[both] = found[:, 0].numpy()
    return distances
