"""Small datasets, and stand-ins for the encoders of a base model."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from siamese_diffusion.common.pairs import DatasetError
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.data.batches import TrainingData
from siamese_diffusion.training.data.dataset import Dataset, load_dataset
from siamese_diffusion.training.data.framing import Framing
from siamese_diffusion.training.hosts.choose import choose_host
from siamese_diffusion.training.method.base_model import BaseModel, TextEncoder
from torch import Tensor, nn

CPU = torch.device("cpu")
SQUARE = Framing((32, 32))
# The first colours of Pascal VOC's palette.
VOC = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)


def config(folder: Path, **flags: object) -> TrainConfig:
    """A configuration of a dataset; --train_data is `folder`/prompt.jsonl unless it is given."""
    if not {"train_data", "train_data_dir", "dataset_config"} & flags.keys():
        flags["train_data"] = folder / "prompt.jsonl"
    paths = {"pretrained_model_name_or_path": folder / "base", "output_dir": folder / "runs/out"}
    return TrainConfig(**paths, **flags)  # type: ignore[arg-type]


def resolve(folder: Path, **flags: object) -> tuple[TrainConfig, Dataset]:
    """The dataset, and the configuration with what a dataset TOML has set."""
    settings = config(folder, **flags)
    return load_dataset(settings, choose_host(settings).resolve_subsets)


def load(folder: Path, **flags: object) -> Dataset:
    return resolve(folder, **flags)[1]


def problems(folder: Path, **flags: object) -> str:
    """The report of a dataset that must be refused."""
    with pytest.raises(DatasetError) as error:
        load(folder, **flags)
    return str(error.value)


def two_folders(folder: Path) -> dict[str, object]:
    return {"train_data_dir": folder / "images", "conditioning_data_dir": folder / "masks"}


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def photo(seed: int = 0, width: int = 32, height: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def lesion(width: int = 32, height: int = 32) -> np.ndarray:
    """A mask (H, W) of 0 and 255 without any symmetry."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 8 : height // 2, width // 8 : width // 4] = 255
    return mask


def write_list(folder: Path, sizes: Sequence[tuple[int, int]], caption: str = "a polyp") -> Path:
    """Pairs of these (width, height) with a prompt.jsonl; the image shows its mask in red."""
    lines = []
    for number, (width, height) in enumerate(sizes):
        mask, image = lesion(width, height), photo(number, width, height)
        image[..., 0] = mask
        save(folder / f"images/{number}.png", image)
        save(folder / f"masks/{number}.png", mask)
        line = {"source": f"masks/{number}.png", "target": f"images/{number}.png"}
        lines.append(json.dumps({**line, "prompt": f"{caption} {number}"}))
    (folder / "prompt.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def write_palette_masks(folder: Path) -> Path:
    """Two pairs: an indexed PNG of classes 0 and 1, an RGB PNG of classes 0 and 2."""
    write_list(folder, [(32, 32), (48, 32)])
    indexed = Image.fromarray(lesion() // 255, "P")
    indexed.putpalette(VOC.ravel().tolist())
    indexed.save(folder / "masks/0.png")
    save(folder / "masks/1.png", VOC[lesion(48, 32) // 255 * 2])
    return folder


class Encoder:
    """Stands in for both encoders; its latents of a flipped image are not flipped latents."""

    def __init__(self, seed: int = 0) -> None:
        self.module: nn.Module = nn.Conv2d(3, 8, 8, 8)
        self.settings = ""
        values = torch.Generator().manual_seed(seed)
        for parameter in self.module.parameters():
            parameter.data = torch.randn(parameter.shape, generator=values)
        self.encoded = 0

    def encode(self, inputs: Tensor | Sequence[str]) -> Tensor | tuple[Tensor, Tensor]:
        self.encoded += len(inputs)
        if not isinstance(inputs, Tensor):
            seeds = [zlib.crc32(caption.encode()) for caption in inputs]
            return torch.stack(
                [torch.randn(77, 4, generator=torch.Generator().manual_seed(s)) for s in seeds]
            )
        mean, deviation = self.module(inputs).chunk(2, dim=1)
        return mean, deviation.abs() * 0


class Base:
    """The two encoders of a base model, and how often they ran."""

    def __init__(self, seed: int = 0) -> None:
        self.autoencoder, self.text_encoder = Encoder(seed), Encoder(seed)

    def prepare(self, data: TrainingData) -> TrainingData:
        data.texts.prepare(cast(TextEncoder, self.text_encoder), data.captions(), CPU, quiet=True)
        data.prepare(cast(BaseModel, self), CPU, quiet=True)
        return data


def prepared(dataset: Dataset, framing: Framing = SQUARE) -> TrainingData:
    return Base().prepare(TrainingData(dataset, framing))
