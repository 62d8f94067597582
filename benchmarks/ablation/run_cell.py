"""One cell: train, sample, score. Each part is kept, so that a stopped cell goes on."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from PIL import Image

from ...common.files import replacing
from ...models.shapes import Changes, augment
from ...tools.nuclei import NAME, Settings, one_from_each_group, training_command
from ...tools.nuclei_crops import Crop, of_tiles, read_crops, write_crops
from ...tools.pairs import Bools, Bytes
from .cells import Cell
from .measures import alignment, colour, interval, spread
from .sampling import Sampler

TEST_MASKS = 64
SPREAD_MASKS, SPREAD_SEEDS = 16, 4
LARGEST_SET = 400  # synthetic pairs: about as many as 40 tiles have real ones
CHANGES = Changes(flip=True, rotation=20.0, scale=0.2, elastic=0.5)  # the node's defaults


class Spread(TypedDict):
    """The interval, and the images that it was measured on."""

    spread: dict[str, float]
    images: list[Bytes]


class UnfinishedError(RuntimeError):
    """Training ended early: with an error, which it has printed, or because time is up."""


class CellRun:
    """The files of a cell: OUT/NAME/real, test, figures.json and synthetic; OUT/runs/NAME.

    All runs lie in one folder because they share the cache of latents in it.
    """

    def __init__(
        self, out: Path, base: Path, cell: Cell, settings: Settings, until: float = math.inf
    ) -> None:
        """until: when training must have stopped and saved its state, by time.monotonic()."""
        self.cell, self.base, self.until = cell, base, until
        self.settings = replace(settings, recipe=cell.recipe, tiles=cell.tiles, seed=cell.seed)
        self.folder = out / cell.name
        self.figures = self.folder / "figures.json"
        self.run_folder = out / "runs" / cell.name
        self.bundle = self.run_folder / f"{NAME}.safetensors"

    @property
    def done(self) -> bool:
        """The list of synthetic pairs is what is written last."""
        return (self.folder / "synthetic" / "prompt.jsonl").is_file()

    def run(self) -> None:
        """Raises UnfinishedError; a second call goes on where the first one stopped."""
        real = of_tiles(read_crops("train"), self.cell.tiles, self.cell.seed)
        if not self.bundle.is_file():
            self.train(real)
        sampler = Sampler(self.base, self.bundle)
        if not self.figures.is_file():
            figures = self.score(sampler)
            with replacing(self.figures) as temporary:
                temporary.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
            print(f"{self.cell.name}: alignment {figures['alignment']}", flush=True)
        self.write_synthetic(sampler, real)

    def train(self, real: Sequence[Crop]) -> None:
        """Run train_siamese.py on the cell's real pairs."""
        pairs = write_crops(self.folder / "real", real)
        command = training_command(self.settings, self.base, pairs, self.run_folder)
        process = subprocess.Popen(command)
        try:
            process.wait(None if self.until == math.inf else self.until - time.monotonic())
        except subprocess.TimeoutExpired:
            process.terminate()  # it saves its state
            process.wait()
        if not self.bundle.is_file():
            raise UnfinishedError(f"{self.cell.name}: training is not finished; see above why.")

    def score(self, sampler: Sampler) -> dict[str, object]:
        """Alignment on test masks that no training saw, and the spread over noise."""
        crops = one_from_each_group(read_crops("test"), TEST_MASKS)
        masks = [crop.mask for crop in crops]
        images = self.sample(sampler, masks, range(len(masks)))
        values = alignment(masks, images)
        write_images(self.folder / "test", [crop.name for crop in crops], images)
        recipe = sampler.objective.recipe
        sees_image = recipe.has_image_branch and recipe.image_hint == "image"
        return {
            "cell": asdict(self.cell),
            "settings": asdict(self.settings),
            "training": training_facts(self.run_folder / "metrics.jsonl"),
            "alignment": interval(values, [crop.group for crop in crops]),
            "alignment_of_each": dict(zip([crop.name for crop in crops], values, strict=True)),
            "spread": self.spread(sampler, masks)["spread"],
            "image_branch": self.image_branch(sampler, crops) if sees_image else None,
            "colour": colour(images),
        }

    def spread(self, sampler: Sampler, hints: Sequence[Bools | Bytes]) -> Spread:
        """How much the images of one hint differ from noise to noise, for the first few hints."""
        few = [hint for hint in hints[:SPREAD_MASKS] for _ in range(SPREAD_SEEDS)]
        images = self.sample(sampler, few, range(1000, 1000 + len(few)))
        starts = range(0, len(images), SPREAD_SEEDS)
        values = [spread(images[start : start + SPREAD_SEEDS]) for start in starts]
        return {"spread": interval(values), "images": images}

    def image_branch(self, sampler: Sampler, crops: Sequence[Crop]) -> dict[str, object]:
        """The same for images instead of masks as hints: the branch that training alone uses."""
        found = self.spread(sampler, [crop.image for crop in crops])
        masks = [crop.mask for crop in crops[:SPREAD_MASKS] for _ in range(SPREAD_SEEDS)]
        return {
            "alignment": interval(alignment(masks, found["images"])),
            "spread": found["spread"],
        }

    def sample(
        self, sampler: Sampler, masks: Sequence[Bools | Bytes], seeds: Sequence[int]
    ) -> list[Bytes]:
        settings = self.settings
        return sampler.images(masks, seeds, settings.sampling_steps, settings.cfg, settings.bf16)

    def write_synthetic(self, sampler: Sampler, real: Sequence[Crop]) -> None:
        """As many pairs as there are real ones, of augmented training masks, as a dataset.

        At most LARGEST_SET of them, spread evenly over the training masks.
        """
        count = min(len(real), LARGEST_SET)
        real = [real[number * len(real) // count] for number in range(count)]
        masks = [augmented(crop.mask, number) for number, crop in enumerate(real)]
        images = self.sample(sampler, masks, range(10_000, 10_000 + len(masks)))
        synthetic = [
            Crop(f"{crop.name}_s", crop.group, image.mean(axis=2).round().astype(np.uint8), mask)
            for crop, image, mask in zip(real, images, masks, strict=True)
        ]
        write_crops(self.folder / "synthetic", synthetic)


def augmented(mask: Bools, seed: int) -> Bools:
    """Another mask as plausible, by the code of the node SiameseAugmentMask."""
    changed = augment(torch.from_numpy(mask).float(), CHANGES, torch.Generator().manual_seed(seed))
    return changed.numpy() > 0.5


def write_images(folder: Path, names: Sequence[str], images: Sequence[Bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")


def training_facts(metrics: Path) -> dict[str, float]:
    """Steps and seconds of training, and the mean of each loss over the last 50 steps logged."""
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    names = [name for name in lines[-1] if name.startswith("loss")]
    means = {name: float(np.mean([line[name] for line in lines[-50:]])) for name in names}
    seconds = sum(line["seconds"] for line in lines)
    return {"steps": lines[-1]["step"], "seconds": round(seconds), **means}
