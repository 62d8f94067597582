"""Many steps of a tiny model, by the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...models.weights import read_weights
from ...tools.comfy_host import ROOT
from ...tools.nano import build_nano
from ...tools.pairs import write_pairs
from ..determinism import TEXT, TINY
from .watch import Sample, Watch, findings

SIZE = 32  # pixels of the pairs, the smallest that can be made
RESOLUTION = 16  # that they are trained at
STATES = 40  # that a run saves
POLL_SECONDS = 1.0


def soak_training(folder: Path, steps: int) -> dict[str, Any]:
    """Train `steps` steps, then the last of them once more from an earlier state.

    A run that was stopped goes on; memory is then that of the process that ends it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base, pairs = folder / "tiny.safetensors", folder / "pairs"
    if not base.is_file():
        build_nano(base, shape=TINY, text_encoder=TEXT)
        write_pairs(pairs, count=6, size=SIZE, seed=0)
    every = max(1, steps // STATES)
    flags = {
        "host": "standalone", "pretrained_model_name_or_path": base,
        "train_data": pairs / "prompt.jsonl", "resolution": RESOLUTION, "train_batch_size": 1,
        "max_train_steps": steps, "learning_rate": 1e-4, "ema_decay": 0.99,
        "save_every_n_steps": every, "sample_every_n_steps": every, "sample_steps": 2,
        "sample_count": 2,
    }  # fmt: skip
    run, again = folder / "run", folder / "again"
    shutil.rmtree(again, ignore_errors=True)
    samples = _train(flags, run)
    earlier = run / "state" / f"step{steps - every:08d}"
    _train({**flags, "resume": earlier}, again)
    result = findings(samples, _same_weights(run, again))
    shutil.rmtree(run)
    shutil.rmtree(again)
    return result


def _train(flags: dict[str, Any], out: Path) -> list[Sample]:
    """Run train_siamese.py to its end; what its process held on the way."""
    command = [sys.executable, str(ROOT / "training" / "train_siamese.py")]
    given = {**flags, "output_dir": out}
    metrics, total = out / "metrics.jsonl", flags["max_train_steps"]
    with (out.parent / f"{out.name}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in given.items())], stderr=log
        )
    watch = Watch(process.pid)
    with tqdm(total=total, desc="steps") as bar:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            done = _last_step(metrics)
            bar.update(done - bar.n)
            # Not before its first step, nor once it ends.
            if bar.n and bar.n > bar.initial and done < total and process.poll() is None:
                watch.sample(done)
    if process.returncode:
        raise RuntimeError(f"train_siamese.py failed; see {log.name}")
    return watch.samples


def _last_step(metrics: Path) -> int:
    """Of the last whole line; 0 where there is none."""
    if not metrics.is_file():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
        lines = file.read().split(b"\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _same_weights(run: Path, again: Path) -> bool:
    one, two = (read_weights(folder / "siamese.safetensors").tensors for folder in (run, again))
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
