"""The edges of masks: grown by pixels, and soft ones that blend."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def dilated(mask: Tensor, pixels: int) -> Tensor:
    """Mask (1, 1, H, W) dilated by a square of `pixels` to each side."""
    # Down and then across: work in proportion to the square's side, not to its area.
    down = functional.max_pool2d(mask, (2 * pixels + 1, 1), 1, (pixels, 0))
    return functional.max_pool2d(down, (1, 2 * pixels + 1), 1, (0, pixels))


def soft_edge(mask: Tensor, pixels: int) -> Tensor:
    """Mask (B, 1, H, W) of zeros and ones -> ones inside, falling to 0 over `pixels` around it."""
    grown = dilated(mask, pixels - pixels // 2)
    half = pixels // 2
    if half == 0:
        return grown
    # A mean of ones is exactly 1, of zeros exactly 0. Down and then across, as in `dilated`.
    padded = functional.pad(grown, (half,) * 4, mode="replicate")
    down = functional.avg_pool2d(padded, (2 * half + 1, 1), 1)
    return functional.avg_pool2d(down, (1, 2 * half + 1), 1)
