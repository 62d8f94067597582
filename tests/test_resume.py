"""Never losing work: whatever ends a run, the same command goes on as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from siamese_diffusion.models.weights import read_weights
from siamese_diffusion.training.checkpoints import RunFolder
from siamese_diffusion.training.train_siamese import main
from small_runs import metrics
from tiny_base import write_tiny_base

STEPS = 8


@pytest.fixture(scope="module")
def command(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of eight steps with everything that has a state: optimizer, scheduler, average."""
    base = write_tiny_base(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")
    return [
        f"--pretrained_model_name_or_path={base}",
        f"--train_data={pairs}",
        "--resolution=64",
        "--train_batch_size=2",
        f"--max_train_steps={STEPS}",
        "--learning_rate=1e-3",
        "--lr_scheduler=cosine",
        "--lr_warmup_steps=2",
        "--ema_decay=0.9",
        "--save_every_n_steps=1",
        "--sample_every_n_steps=0",
        "--sample_steps=1",
        "--sample_count=1",
    ]


@pytest.fixture(scope="module")
def processes() -> Iterator[multiprocessing.context.ForkServerContext]:
    """Fresh processes that need not import everything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["siamese_diffusion.training.session"])
    yield context


def run(arguments: list[str]) -> None:
    """Train and end the process; on one thread, since the number of threads changes rounding."""
    torch.set_num_threads(1)
    os._exit(main(arguments))


@pytest.fixture(scope="module")
def uninterrupted(
    command: list[str],
    processes: multiprocessing.context.ForkServerContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    process = processes.Process(target=run, args=([*command, f"--output_dir={out}"],))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    return out


def assert_same_run(out: Path, expected: Path) -> None:
    """Equal weights bit for bit, and the same history."""
    found = read_weights(out / "siamese.safetensors").tensors
    known = read_weights(expected / "siamese.safetensors").tensors
    assert found.keys() == known.keys()
    different = [key for key in known if not torch.equal(found[key], known[key])]
    assert different == []
    assert losses(out) == losses(expected)


def losses(out: Path) -> list[tuple[float, float]]:
    return [(line["step"], line["loss"]) for line in metrics(out)]


def test_a_run_killed_at_ten_random_moments_ends_the_same(
    command: list[str],
    processes: multiprocessing.context.ForkServerContext,
    uninterrupted: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    moments = random.Random(0)
    arguments = [*command, f"--output_dir={out}"]
    kills = 0
    while not (out / "siamese.safetensors").exists():
        process = processes.Process(target=run, args=(arguments,))
        process.start()
        if kills < 10:
            wait_for_a_random_moment(process, out, moments)
            kills += 1
            if process.exitcode is None:
                os.kill(process.pid or 0, signal.SIGKILL)
        process.join(300)
    assert kills == 10
    assert_same_run(out, uninterrupted)
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def wait_for_a_random_moment(
    process: multiprocessing.process.BaseProcess, out: Path, moments: random.Random
) -> None:
    """Until the run writes something new, and then up to a step's time longer."""
    before = snapshot(out)
    deadline = time.monotonic() + 120
    while process.is_alive() and snapshot(out) == before and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.3))


def snapshot(out: Path) -> list[tuple[str, int]]:
    try:
        return [(str(p), p.stat().st_size) for p in sorted(out.rglob("*"))]
    except FileNotFoundError:  # renamed while being listed: something new
        return []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_and_exits_cleanly(
    number: signal.Signals,
    command: list[str],
    processes: multiprocessing.context.ForkServerContext,
    uninterrupted: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    arguments = [*command, f"--output_dir={out}", "--save_every_n_steps=0"]
    process = processes.Process(target=run, args=(arguments,))
    process.start()
    while process.is_alive() and not (out / "metrics.jsonl").exists():
        time.sleep(0.005)
    os.kill(process.pid or 0, number)
    process.join(300)
    assert process.exitcode == 0
    assert len(list((out / "state").iterdir())) == 1
    assert not (out / "siamese.safetensors").exists()
    process = processes.Process(target=run, args=(arguments,))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    assert_same_run(out, uninterrupted)


def test_another_command_does_not_continue_a_run(
    command: list[str], uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished := uninterrupted / "siamese.safetensors").rename(uninterrupted / "kept")
    try:
        assert main([*command, f"--output_dir={uninterrupted}", "--seed=7"]) == 2
    finally:
        (uninterrupted / "kept").rename(finished)
    message = capsys.readouterr().err
    assert "--seed was 42, is 7" in message


def test_changed_data_does_not_continue_a_run(
    command: list[str], pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(pairs.parent, tmp_path / "data"))
    out = tmp_path / "out"
    arguments = [*command, f"--train_data={data / 'prompt.jsonl'}", f"--output_dir={out}"]
    assert main([*arguments, "--max_train_steps=1"]) == 0
    folder = RunFolder(out, "siamese")
    folder.clear(folder.unfinished_state(1))
    folder.complete_state(folder.unfinished_state(1), 1)
    (out / "siamese.safetensors").unlink()
    mask = next((data / "masks").iterdir())
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    assert main([*arguments, "--max_train_steps=1"]) == 2
    assert "images, masks or captions have changed" in capsys.readouterr().err


def test_an_infinite_loss_stops_and_leaves_the_last_good_state(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [*command, f"--output_dir={out}", "--learning_rate=1e30", "--lr_warmup_steps=0"]
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "the loss is not finite (" in message
    assert ".png" in message
    assert "last good state" in message
    good = read_weights(next((out / "state").iterdir()) / "weights.safetensors").tensors
    assert good
    assert not (out / "siamese.safetensors").exists()
