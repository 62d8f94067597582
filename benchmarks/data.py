"""What data cost a process: its rows of a step, the check of many pairs, and their captions.

Processes are simulated: each has its share of a global batch, and one of them is measured.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast
from unittest.mock import patch

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor, nn

from ..common.pair_check import check_pairs
from ..common.pair_info import CheckCache
from ..common.pairs import Listing, Pair
from ..training.data import pair_pictures
from ..training.data.batch_order import BatchOrder, Share
from ..training.data.batches import TrainingData
from ..training.data.dataset import Dataset
from ..training.data.framing import Framing
from ..training.data.text_embeddings import TextEmbeddings
from ..training.method.base_model import BaseModel, TextEncoder
from ..training.run.dealing import deal_rows
from .measure import interleave, machine
from .report import Result
from .workload import Scale

ROWS = 6  # of a process, as published for each of eight
PROCESSES = (1, 8, 64)
PAIRS = (10_000, 100_000)
CHECKED_PIXELS = 64  # sides of the pictures that are only checked
DISTINCT = 48
SEED = 42
HOUR = 3600 * 10**9
TOKENS, WIDTH = 77, 16  # of an embedding here: SD 1.5's is 48 times as wide
COLUMNS = ("what", "time", "own memory")


class Encoders:
    """Stand in for a base model's: data are what is measured."""

    settings = ""

    def __init__(self) -> None:
        self.module: nn.Module = nn.Identity()
        self.autoencoder = self.text_encoder = self

    def encode(self, inputs: Tensor | Sequence[str]) -> Tensor | tuple[Tensor, Tensor]:
        if isinstance(inputs, Tensor):
            grey = nn.functional.avg_pool2d(inputs.mean(1, keepdim=True), 8)
            return grey.repeat(1, 4, 1, 1), torch.zeros_like(grey)
        return torch.ones(len(inputs), TOKENS, WIDTH)


def measure_data(scale: Scale, tiny: bool) -> Result:
    """Of the scale the size of the images and the number of rounds count."""
    counts = (20, 40) if tiny else PAIRS
    with tempfile.TemporaryDirectory() as folder:
        steps = measure_steps(Path(folder) / "steps", scale, 2 if tiny else ROWS)
        checks = [measure_pairs(Path(folder) / str(count), count) for count in counts]
    one = statistics.median(steps["1"])
    rows = [
        (
            f"rows of a step, {name} process{'es' if name != '1' else ''}",
            f"{statistics.median(seconds) * 1e3:.1f} ms "
            f"({statistics.median(seconds) / one:.2f} of one process)",
            "",
        )
        for name, seconds in steps.items()
    ]
    for count, found in zip(counts, checks, strict=True):
        rows += [
            (f"check of {count:,} pairs", f"{found['check']:.1f} s", _mb(found["infos"])),
            (f"the same again, from its cache: {count:,}", f"{found['again']:.1f} s", ""),
            (f"captions of {count:,} pairs, {_mb(found['file'])} mapped", "", _mb(found["texts"])),
        ]
    title = f"Data of a process: {ROWS} rows of {scale.pixels} px; checks at {CHECKED_PIXELS} px"
    raw = {"steps": steps, "checks": dict(zip(map(str, counts), checks, strict=True))}
    return Result("data", title, machine(), rows, raw, columns=COLUMNS)


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


def measure_steps(folder: Path, scale: Scale, rows: int) -> dict[str, list[float]]:
    """Seconds that a process needs for its rows of a step, decoding included; by processes."""
    listing = linked_pairs(folder, DISTINCT, scale.pixels)
    infos = check_pairs("benchmark", listing, "binary")
    dataset = Dataset("benchmark", tuple(listing.pairs), infos, "binary")
    with patch.object(pair_pictures, "IMAGE_MEMORY", 0):  # as with more than are kept
        data = TrainingData(dataset, Framing((scale.pixels, scale.pixels)))
    encoders = Encoders()
    cpu = torch.device("cpu")
    data.texts.prepare(cast(TextEncoder, encoders), data.captions(), cpu, quiet=True)
    data.prepare(cast(BaseModel, encoders), cpu, quiet=True)
    sides = {}
    for processes in PROCESSES:
        order = BatchOrder(data.sizes, rows * processes, SEED)
        sides[str(processes)] = partial(_make_batch, data, order, processes, itertools.count())
    return interleave(sides, scale.rounds)


def _make_batch(
    data: TrainingData, order: BatchOrder, processes: int, steps: Iterator[int]
) -> None:
    """What one of the processes does for its next step."""
    step = next(steps)
    indices = order.batch(step)
    rows = deal_rows(data.timesteps(indices, SEED, step), processes)[0]
    data.batch(indices, SEED, step, 0.05, Share(rows, len(indices)))


def measure_pairs(folder: Path, count: int) -> dict[str, float]:
    """Seconds of checking so many pairs, and bytes: of what is found, and of their captions."""
    listing, cache = linked_pairs(folder, count, CHECKED_PIXELS), CheckCache(folder / "checked")
    found: dict[str, float] = {}
    with _grown(found, "infos"):
        started = time.perf_counter()
        infos = check_pairs("benchmark", listing, "binary", cache)
        found["check"] = time.perf_counter() - started
    started = time.perf_counter()
    if check_pairs("benchmark", listing, "binary", cache) != infos:
        raise RuntimeError("the cache of the check holds something else than was found")
    found["again"] = time.perf_counter() - started
    texts, captions = TextEmbeddings(folder), [pair.caption for pair in listing.pairs]
    with _grown(found, "texts"):
        texts.prepare(cast(TextEncoder, Encoders()), captions, torch.device("cpu"), quiet=True)
        texts.load(captions[:: count // 10])
    found["file"] = (count + 1) * TOKENS * WIDTH * 4
    return found


@contextmanager
def _grown(found: dict[str, float], name: str) -> Iterator[None]:
    """How much more memory the process has afterwards, without files that it has mapped."""
    before = _own_memory()
    yield
    found[name] = max(0, _own_memory() - before)


def _own_memory() -> int:
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def linked_pairs(folder: Path, count: int, pixels: int) -> Listing:
    """Pairs that share the content of DISTINCT files by hard links, an hour old."""
    listing, random = Listing(), np.random.default_rng(0)
    then = time.time_ns() - HOUR
    for role in ("images", "masks"):
        (folder / role).mkdir(parents=True)
    for number in range(count):
        image, mask = (folder / role / f"{number}.png" for role in ("images", "masks"))
        for path, shape in ((image, (pixels, pixels, 3)), (mask, (pixels, pixels))):
            if number < DISTINCT:
                picture = random.integers(0, 256, shape, np.uint8)
                Image.fromarray(picture if path is image else picture // 128 * 255).save(path)
                os.utime(path, ns=(then, then))
            else:
                os.link(path.with_name(f"{number % DISTINCT}.png"), path)
        listing.pairs.append(Pair(image, mask, f"a polyp, number {number}"))
    return listing
