"""Images of a run: preview grids and loss curves."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ...common.files import replacing
from ...common.picture_grid import picture_grid
from ..method.base_model import Autoencoder
from . import metrics
from .loss_curves import draw_losses

GAP = 4  # pixels between the images of a grid
OUTLINE = (0.1, 1.0, 0.2)


@torch.no_grad()
def decode(autoencoder: Autoencoder, latents: Tensor, device: torch.device) -> Tensor:
    """Images (B, 3, 8h, 8w) in [0, 1], on the CPU, of latents (B, 4, h, w); one after the other.

    The autoencoder is on the device meanwhile. In float32: Stable Diffusion's decoder overflows in
    half precision, to black images.
    """
    try:
        autoencoder.module.to(device)
        images = [autoencoder.decode(each).cpu() for each in latents.float().split(1)]
        return torch.cat(images)
    finally:
        autoencoder.module.to("cpu")


def grid(columns: Sequence[Tensor]) -> Image.Image:
    """An image with a row per sample; each column is (B, 1 or 3, H, W) in [0, 1]."""
    coloured = [column.float().cpu().expand(-1, 3, -1, -1) for column in columns]
    cells = rearrange(coloured, "column row c h w -> (row column) h w c")
    pixels = cells.mul(255).round().clamp(0, 255).byte().numpy()
    return Image.fromarray(picture_grid([*pixels], len(columns), GAP))


def outline(image: Tensor, mask: Tensor) -> Tensor:
    """The mask's outline in green over images (B, 3, H, W) in [0, 1]; mask (B, 1 or 3, H, W)."""
    thick = functional.max_pool2d(mask, 3, 1, 1)
    thin = -functional.max_pool2d(-mask, 3, 1, 1)
    edge = (thick != thin).any(1, keepdim=True)  # classes may differ in one channel only
    colour = torch.tensor(OUTLINE, device=image.device).view(1, 3, 1, 1)
    return torch.where(edge, colour, image)


def plot_losses(metrics_file: Path, path: Path) -> None:
    """Draw the curves of a metrics.jsonl as a PNG; none where it has no losses yet."""
    figure = draw_losses(metrics.read(metrics_file))
    if figure is not None:
        save_image(figure, path)
        # Its parts refer to each other: left to themselves, some tens of MB of old figures pile up.
        del figure
        gc.collect()


def save_image(figure: object, path: Path) -> None:
    """Save a matplotlib figure or a PIL image as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if isinstance(figure, Image.Image):
            figure.save(temporary, format="PNG")
        else:
            figure.savefig(temporary, format="png", dpi=110)  # type: ignore[attr-defined]
