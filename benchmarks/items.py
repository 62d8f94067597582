"""What an item costs beside its image: 100,000 pairs from masks to merged lists, by one process.

Images are black and small, so that what is left does not depend on the GPU: names, masks read,
files looked for, encoded and written, outcomes counted, lists and manifests. Time is that of the
processor, in all threads: whatever else the machine does hardly changes it. Of Ray it is that of
the driver, once actors are at work: what one process has to do for all GPUs.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..common.pair_files import PairFiles
from ..synthesis.engines.local import run_locally
from ..synthesis.jobs import PREFIXES_FROM, FolderJob, Job, TarJob
from ..synthesis.masks import folder_of_masks
from ..synthesis.plan import Plan
from ..synthesis.records import claim
from ..synthesis.run import Engine, synthesize
from ..synthesis.settings import Shard
from ..synthesis.shard import Masking, Outcome, Wanted
from .measure import machine
from .report import Result

PAIRS = (10_000, 100_000)
IMAGES_PER_MASK = 10
BATCH_SIZE = 16
PIXELS = 8
THREADS = 1  # of PyTorch, which has nothing to do
KINDS = {"folders": "folders", "tar": "`--tar`"}
RAY = "ray"
ROWS = {
    "make": ("a pair, made and written", 1e6, "µs"),
    "list": ("counted and listed, by the first process", 1e6, "µs"),
    "again": ("a pair that is there, run again", 1e6, "µs"),
    "memory": ("most memory of the process", 1e-6, "MB"),
}
RAY_ROWS = {
    "make": ("`--ray`: a pair, handed out and taken back by the driver", 1e6, "µs"),
    "memory": ("`--ray`: most memory of the driver", 1e-6, "MB"),
}
Figures = dict[str, float]


def measure_items(tiny: bool) -> Result:
    """Microseconds of processor time of a pair, and memory, at two numbers of pairs."""
    counts = (20, 40) if tiny else PAIRS
    found = {kind: [_in_new_process(kind, count) for count in counts] for kind in (*KINDS, RAY)}
    rows = [
        [what, *(f"{each[key] * factor:,.0f} {unit}" for each in found[kind])]
        for kind in found
        for key, (what, factor, unit) in _rows(kind).items()
    ]
    title = f"Items of synthesis: images of {PIXELS} px that cost nothing; processor time"
    columns = ("", *(f"{count:,} pairs" for count in counts))
    raw = {"pairs": counts, **found}
    facts = {**machine(), "threads": THREADS}
    return Result("items", title, facts, rows, raw, columns=columns)


def _rows(kind: str) -> dict[str, tuple[str, float, str]]:
    """What each figure of a kind says, its factor and unit."""
    if kind == RAY:
        return RAY_ROWS
    name = KINDS[kind]
    return {key: (f"{name}: {what}", factor, unit) for key, (what, factor, unit) in ROWS.items()}


def _in_new_process(kind: str, count: int) -> Figures:
    """So that the most memory is that of these pairs."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (THREADS,)) as pool:
        return pool.submit(_measure, kind, count).result()


def _measure(kind: str, count: int) -> Figures:
    """Seconds of processor time of a pair, and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(folder_of_masks(_masks(Path(folder, "masks"), count), "a"), IMAGES_PER_MASK)
        job = _job(kind, plan, Path(folder, "out"))
        found = _of_ray(job, count) if kind == RAY else _of_one_process(job, count)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**found, "memory": most * (1 if sys.platform == "darwin" else 1024)}


def _of_one_process(job: Job, count: int) -> Figures:
    engine = _Timed(partial(run_locally, make_model=_nothing, processes=1))
    whole = _run(job, engine)
    found = {"make": engine.seconds / count, "list": (whole - engine.seconds) / count}
    return {**found, "again": _run(job, engine) / count}


def _of_ray(job: Job, count: int) -> Figures:
    """Without its start, which is over when the first outcome is there."""
    from ..synthesis.engines.ray_cluster import run_on_ray

    engine = _Timed(partial(run_on_ray, make_model=_nothing, address="local"))
    _run(job, engine)
    return {"make": (engine.seconds - engine.first) / (count - 1)}


def _masks(folder: Path, pairs: int) -> Path:
    """As many masks as the pairs need, all of one content."""
    folder.mkdir()
    pixels = np.zeros((PIXELS, PIXELS), np.uint8)
    pixels[2:5, 2:5] = 255
    Image.fromarray(pixels).save(folder / "0.png")
    for number in range(1, pairs // IMAGES_PER_MASK):
        os.link(folder / "0.png", folder / f"{number}.png")
    return folder


def _job(kind: str, plan: Plan, folder: Path) -> Job:
    masking = Masking({}, None)
    if kind == "tar":
        return TarJob(plan, folder, masking, BATCH_SIZE)
    return FolderJob(plan, PairFiles(folder, len(plan) >= PREFIXES_FROM), masking, BATCH_SIZE)


def _nothing(_device: str) -> _Nothing:
    return _Nothing()


class _Nothing:
    """A model that makes black images at once."""

    def images(self, batch: Sequence[Wanted]) -> list[np.ndarray]:
        return [np.zeros((PIXELS, PIXELS, 3), np.uint8) for _ in batch]


@dataclass
class _Timed:
    """An engine, and the seconds of processor time that it has taken in this process: in all, and
    until its first outcome."""

    engine: Engine
    seconds: float = 0
    first: float = 0

    def __call__(self, job: Job, units: Sequence[int]) -> Iterator[Outcome]:
        outcomes = iter(self.engine(job, units))
        self.seconds = self.first = 0
        while True:
            started = time.process_time()
            outcome = next(outcomes, None)
            self.seconds += time.process_time() - started
            self.first = self.first or self.seconds
            if outcome is None:
                return
            yield outcome


def _run(job: Job, engine: Engine) -> float:
    """Seconds of processor time of all that `siamese-synthesize` does once it has its plan."""
    started = time.process_time()
    claim(job.folder, {})
    record = synthesize(job, job.folder, {}, Shard(), engine)
    if record.pairs != len(job.plan):
        raise RuntimeError(f"{record.pairs} of {len(job.plan)} pairs: {record.failed}")
    return time.process_time() - started
