"""Killed at any moment, a run has everything that it has said to be saved, and ends the same."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from siamese_diffusion.models.weights import read_weights
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.run import metrics
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.run.states import check_state, read_state
from siamese_diffusion.training.train_siamese import main
from support.processes import KILLS, end_with
from support.small_runs import metrics as lines_of

pytestmark = pytest.mark.slow  # whole trainings

LATEST = 0.7  # of the time that the whole run takes
STEPS = 6
EVERYTHING = [  # that is written, or has a state
    "--resolution=64", "--train_batch_size=2", f"--max_train_steps={STEPS}", "--flip_aug",
    "--learning_rate=1e-3", "--lr_scheduler=cosine", "--lr_warmup_steps=2", "--ema_decay=0.9",
    "--max_grad_norm=1", "--save_every_n_steps=1", "--keep_last_n=2", "--sample_every_n_steps=2",
    "--sample_steps=1", "--sample_count=1", "--validation_split=0.34", "--validate_every_n_steps=2",
    "--cache_latents_to_disk", "--log_with=tensorboard", "--deterministic",
]  # fmt: skip
SAID = re.compile(r"(?:Weights|Preview): (?P<path>.+)$", re.MULTILINE)


class Killed:
    """A run that is started again and again, and killed at moments that nobody has chosen."""

    def __init__(
        self, processes: multiprocessing.context.ForkServerContext, arguments: list[str], out: Path
    ) -> None:
        self.processes, self.out = processes, out
        self.arguments = [*arguments, f"--output_dir={out}"]
        self.log = out.parent / f"{out.name}.log"
        self.folder = RunFolder(out, TrainConfig.output_name)
        self.saved = 0  # step of the newest state that was there

    def start(self, kill_after: float | None) -> bool:
        """Whether the run was killed, and not done before; after it all that was said is true."""
        process = self.processes.Process(target=end_with, args=(main, self.arguments, self.log))
        process.start()
        process.join(kill_after)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), self.log.read_text()
        self.check()
        return process.exitcode != 0

    def check(self) -> None:
        """All that is there under its final name is whole, and nothing saved has gone."""
        said = [Path(found["path"]) for found in SAID.finditer(self.log.read_text())]
        kept = {path for path in said if path.suffix == ".png"} | {*said[-1:]}
        assert [path for path in kept if not path.is_file()] == []
        for path in self.out.glob("*.safetensors"):
            assert read_weights(path).tensors
        for state in (states := self.folder.complete_states()):
            check_state(state, has_ema=True)
        newest = read_state(states[-1])[0] if states else 0
        assert newest >= self.saved
        self.saved = newest
        lines = metrics.lines_until(self.folder.metrics, newest)
        assert {json.loads(line)["step"] for line in lines} >= {*range(1, newest + 1)}


def without_times(out: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines_of(out)]


def test_a_run_killed_at_random_moments_loses_nothing_that_it_has_saved(
    tiny: Path, pairs: Path, tmp_path: Path,
    processes: multiprocessing.context.ForkServerContext,
) -> None:  # fmt: skip
    arguments = [f"--pretrained_model_name_or_path={tiny}", f"--train_data={pairs}", *EVERYTHING]
    whole = Killed(processes, arguments, tmp_path / "whole/out")
    whole.out.parent.mkdir()
    began = time.monotonic()
    assert not whole.start(None)
    duration = time.monotonic() - began
    expected = read_weights(whole.out / "siamese.safetensors").tensors
    kills = finished = 0
    while kills < KILLS or not finished:
        folder = tmp_path / f"{finished}/out"
        folder.parent.mkdir(exist_ok=True)
        killed = Killed(processes, arguments, folder)
        while killed.start(random.uniform(0, LATEST * duration) if kills < KILLS else None):
            kills += 1
        finished += 1
        found = read_weights(folder / "siamese.safetensors").tensors
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
        assert without_times(folder) == without_times(whole.out)
        assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
