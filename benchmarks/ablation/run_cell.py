"""One cell: train, sample, score. Each part is kept, so that a stopped cell goes on."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ...common.files import replacing
from ...tools.nuclei import NAME, Settings, one_from_each_group, training_command
from ...tools.nuclei_crops import Crop, of_tiles, read_crops, write_crops
from ...tools.pairs import Bools, Bytes
from ...tools.picture_sheet import contact_sheet
from .cells import ARMS, Cell
from .likeness import Likeness
from .masks import augmented, random_nuclei
from .measures import alignment, colour, interval, spread
from .sampling import Sampler

SPREAD_MASKS, SPREAD_SEEDS = 64, 4
SHEET_MASKS = 12
PAIRS_FOR_A_REAL_ONE = 10
LARGEST_SET = 2_600  # synthetic pairs: five for each real one of 40 tiles
AUGMENTED, RANDOM = "synthetic", "synthetic_random"  # folders of pairs, by what masks they have
FIRST_SEED = {AUGMENTED: 20_000, RANDOM: 30_000}  # of an image's noise


class UnfinishedError(RuntimeError):
    """Training ended early: with an error, which it has printed, or because time is up."""


class CellRun:
    """The files of a cell: OUT/NAME/real, figures.json and synthetic; OUT/runs/NAME."""

    def __init__(
        self, out: Path, base: Path, cell: Cell, settings: Settings, until: float = math.inf
    ) -> None:
        """until: when training must have stopped and saved its state, by time.monotonic(); after
        it no other part is begun."""
        self.out, self.cell, self.base, self.until = out, cell, base, until
        arm = ARMS[cell.arm]
        self.settings = replace(
            settings,
            recipe=arm["recipe"],
            tiles=cell.tiles,
            seed=cell.seed,
            steps=cell.steps(settings.steps),
        )
        self.changes = {name: value for name, value in arm.items() if name != "recipe"}
        self.folder = out / cell.name
        self.figures = self.folder / "figures.json"
        self.run_folder = out / "runs" / cell.name
        self.bundle = self.run_folder / f"{NAME}.safetensors"

    @property
    def done(self) -> bool:
        return self.figures.is_file() and not self.missing_pairs()

    def missing_pairs(self) -> list[str]:
        """Folders of synthetic pairs that are still to be written; a folder's list comes last."""
        wanted = (AUGMENTED, RANDOM) if self.cell.makes_pairs else ()
        return [kind for kind in wanted if not (self.folder / kind / "prompt.jsonl").is_file()]

    def run(self) -> None:
        """Raises UnfinishedError; a second call goes on where the first one stopped."""
        real = of_tiles(read_crops("train"), self.cell.tiles, self.cell.seed)
        if not self.bundle.is_file():
            self.train(real)
        sampler = Sampler(self.base, self.bundle)
        for kind in self.missing_pairs():
            self.check_time()
            self.write_pairs(sampler, real, kind)
        if not self.figures.is_file():
            self.check_time()
            figures = self.score(sampler)
            with replacing(self.figures) as temporary:
                temporary.write_text(json.dumps(figures) + "\n", "utf-8")
            print(f"{self.cell.name}: alignment {figures['alignment']}", flush=True)

    def check_time(self) -> None:
        if time.monotonic() > self.until:
            raise UnfinishedError(f"{self.cell.name}: time is up; the same command goes on.")

    def train(self, real: Sequence[Crop]) -> None:
        """Run train_siamese.py on the cell's real pairs."""
        pairs = write_crops(self.folder / "real", real)
        command = training_command(self.settings, self.base, pairs, self.run_folder)
        for name, value in self.changes.items():
            command += [f"--{name}", value]
        process = subprocess.Popen(command)
        try:
            process.wait(None if self.until == math.inf else self.until - time.monotonic())
        except subprocess.TimeoutExpired:
            process.terminate()  # it saves its state
            process.wait()
        if not self.bundle.is_file():
            raise UnfinishedError(f"{self.cell.name}: training is not finished; see above why.")

    def score(self, sampler: Sampler) -> dict[str, object]:
        """All figures, on masks of the test split, which no training saw."""
        crops, likeness = read_crops("test"), Likeness(self.out)
        branches = {"mask_branch": self.branch(sampler, crops, likeness, joint=False)}
        if sampler.objective.recipe.has_image_branch:
            branches["image_branch"] = self.branch(sampler, crops, likeness, joint=True)
        return {
            "cell": asdict(self.cell),
            "settings": asdict(self.settings),
            "training": training_facts(self.run_folder / "metrics.jsonl"),
            **branches["mask_branch"],
            "image_branch": branches.get("image_branch"),
        }

    def branch(
        self, sampler: Sampler, crops: Sequence[Crop], likeness: Likeness, joint: bool
    ) -> dict[str, object]:
        """Figures of one branch; with `joint` of the image branch, shown the real image too."""
        numbers = scored(crops, self.settings.test_masks)
        shown = [crops[number] for number in numbers]
        images = self.sample(sampler, shown, numbers, joint)
        values = alignment([crop.mask for crop in shown], images)
        few = one_from_each_group(crops, SPREAD_MASKS)
        repeated = [crop for crop in few for _ in range(SPREAD_SEEDS)]
        varied = self.sample(sampler, repeated, range(10_000, 10_000 + len(repeated)), joint)
        starts = range(0, len(varied), SPREAD_SEEDS)
        spreads = [spread(varied[start : start + SPREAD_SEEDS]) for start in starts]
        self.write_sheet("image_branch" if joint else "mask_branch", few, varied)
        return {
            "alignment": interval(values, [crop.group for crop in shown]),
            "alignment_of_each": [round(value, 4) for value in values],
            "fidelity": likeness.fidelity(images),
            "spread": interval(spreads, [crop.group for crop in few]),
            "spread_in_features": likeness.spread(varied, SPREAD_SEEDS),
            "colour": colour(images),
        }

    def sample(
        self, sampler: Sampler, crops: Sequence[Crop], seeds: Sequence[int], joint: bool = False
    ) -> list[Bytes]:
        settings = self.settings
        return sampler.images(
            [crop.mask for crop in crops],
            seeds,
            [crop.image for crop in crops] if joint else None,
            settings.sampling_steps,
            settings.cfg,
            settings.bf16,
        )

    def write_sheet(self, branch: str, crops: Sequence[Crop], varied: Sequence[Bytes]) -> None:
        """A picture: masks, real images, and what the branch makes of them with each seed."""
        shown = crops[:SHEET_MASKS]
        columns: dict[str, Sequence[Bools | Bytes]] = {
            "mask": [crop.mask for crop in shown],
            "real": [crop.image for crop in shown],
        }
        for seed in range(SPREAD_SEEDS):
            columns[f"seed {seed}"] = varied[seed::SPREAD_SEEDS][:SHEET_MASKS]
        contact_sheet(columns, across=2).save(self.folder / f"{branch}.png")

    def write_pairs(self, sampler: Sampler, real: Sequence[Crop], kind: str) -> None:
        """Pairs of augmented training masks, each equally often, or as many of random masks."""
        crops = pair_masks(real, kind)
        first = FIRST_SEED[kind]
        images = self.sample(sampler, crops, range(first, first + len(crops)))
        grey = [image.mean(axis=2).round().astype(np.uint8) for image in images]
        sampled = [replace(crop, image=image) for crop, image in zip(crops, grey, strict=True)]
        write_crops(self.folder / kind, sampled)


def scored(crops: Sequence[Crop], count: int) -> list[int]:
    """The numbers of the crops whose masks are sampled where `count` are to be; from all groups.

    A mask keeps its number, which is its noise's seed: fewer masks give some of the same images.
    """
    names = {crop.name for crop in one_from_each_group(crops, count)}
    return [number for number, crop in enumerate(crops) if crop.name in names]


def pair_masks(real: Sequence[Crop], kind: str) -> list[Crop]:
    """The masks to sample, in crops whose images are still those of the real ones."""
    count = min(PAIRS_FOR_A_REAL_ONE * len(real), LARGEST_SET)
    origins = [(real[number % len(real)], number) for number in range(count)]
    if kind == RANDOM:
        return [
            replace(crop, name=f"random{number:04}", group=RANDOM, mask=random_nuclei(number))
            for crop, number in origins
        ]
    return [
        replace(crop, name=f"{crop.name}_s{number // len(real)}", mask=augmented(crop.mask, number))
        for crop, number in origins
    ]


def training_facts(metrics: Path) -> dict[str, float]:
    """Steps and seconds of training, and the mean of each loss over the last 50 steps logged."""
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    names = [name for name in lines[-1] if name.startswith("loss")]
    last = lines[-50:]
    means = {n: float(np.mean([line[n] for line in last if n in line])) for n in names}
    seconds = sum(line["seconds"] for line in lines)
    return {"steps": lines[-1]["step"], "seconds": round(seconds), **means}
