"""Images and masks at training size, read from their files: what worker processes can do."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import get_worker_info

from ...common.pair_check import check_sizes, check_unchanged
from ...common.pictures import pixel_count, read_image, read_mask, read_palette_mask
from ...common.pixel_budget import BUDGET
from ..errors import FileError
from .dataset import Dataset
from .framing import Augmentation, Framing, augment

IMAGE_MEMORY = 2 << 30  # bytes of decoded images kept; beyond it they are read at every step

Job = Sequence[tuple[int, Augmentation]]  # pairs of one training size, each with what is done to it


class PairPictures(MapDataset[tuple[Tensor, Tensor] | Exception]):
    """The pictures of a dataset's pairs, for torch a map-style dataset whose keys are jobs.

    sizes: (width, height) in pixels of each pair. framings: how each gets that size.
    """

    def __init__(self, dataset: Dataset, framings: Sequence[Framing]) -> None:
        self._pairs = dataset.pairs
        self._infos = [dataset.infos[pair] for pair in dataset.pairs]
        self._framings = framings
        self.sizes = [
            framing.training_size(info.size)
            for framing, info in zip(framings, self._infos, strict=True)
        ]
        self._read_mask = read_mask if dataset.mask_mode == "binary" else read_palette_mask
        self._decoded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._keep = sum(width * height * 6 for width, height in self.sizes) < IMAGE_MEMORY

    def __getitem__(self, job: Job) -> tuple[Tensor, Tensor] | Exception:
        """What `load` returns or raises.

        A value, because DataLoader would put the trace of its worker into an error's message.
        """
        try:
            return self.load(job)
        except (FileError, OSError, MemoryError) as error:
            return error

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_decoded": {}}  # a worker that is spawned reads for itself

    def load(self, job: Job) -> tuple[Tensor, Tensor]:
        """Masks and images (B, 3, H, W), uint8 of 0..255.

        Binary masks are (B, 1, H, W) of bool, palette masks (B, 3, H, W) of uint8. Raises FileError
        for a file that is not as it was when it was checked.
        """
        with ThreadPoolExecutor() as pool:
            pairs = list(pool.map(self._image_and_mask, [index for index, _ in job]))
        images, masks = (
            np.stack([augment(array, how) for array, (_, how) in zip(role, job, strict=True)])
            for role in zip(*pairs, strict=True)
        )
        return _to_tensor(masks[..., None] if masks.dtype == bool else masks), _to_tensor(images)

    def _image_and_mask(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index in self._decoded:
            return self._decoded[index]
        pair = self._pairs[index]
        try:
            check_unchanged(pair, self._infos[index])
            with BUDGET.take(pixel_count(pair.image) + pixel_count(pair.mask)):
                image, mask = read_image(pair.image), self._read_mask(pair.mask)
                check_sizes(pair, self._infos[index], image, mask)
                decoded = self._framings[index].resize(image, mask)
        except ValueError as error:  # it was good when the run began
            raise FileError(str(error)) from error
        if self._keep and get_worker_info() is None:  # not once more in each worker
            self._decoded[index] = decoded
        return decoded


def _to_tensor(pictures: np.ndarray) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(rearrange(pictures, "b h w c -> b c h w")))
