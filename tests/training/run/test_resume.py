"""Never losing work: whatever ends a run, the same command goes on as if nothing had happened."""

from __future__ import annotations

import json
import math
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
from siamese_diffusion.training.method.objective import Batch, Objective
from siamese_diffusion.training.run import reporting
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.train_siamese import main
from support.small_runs import metrics
from support.tiny_base import write_tiny_base
from torch import Tensor

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
    context.set_forkserver_preload(["siamese_diffusion.training.run.start"])
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
    assert "not finite: " in message
    assert ".png" in message
    assert f"--resume {RunFolder(out, 'siamese').latest_state()}" in message
    assert_finite(out)
    assert not (out / "siamese.safetensors").exists()


def assert_finite(out: Path) -> None:
    """Every state is whole and good."""
    states = sorted((out / "state").iterdir())
    assert states
    for state in states:
        tensors = read_weights(state / "weights.safetensors").tensors
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert not (out / "siamese.safetensors").exists()


def test_what_fails_at_the_end_is_done_again_without_training(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    flags = [
        "--max_train_steps=2",
        "--save_every_n_steps=0",
        "--ema_decay=0",
        "--lr_warmup_steps=0",
    ]
    arguments = [*command, f"--output_dir={out}", *flags]

    def out_of_memory(*_: object) -> Tensor:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(reporting, "sample", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            main(arguments)
    history = (out / "metrics.jsonl").read_bytes()
    assert [path.name for path in (out / "state").iterdir()] == ["step00000002"]
    saved = read_weights(out / "state/step00000002/weights.safetensors").tensors
    assert not (out / "siamese.safetensors").exists()

    monkeypatch.setattr(Objective, "losses", None)  # nothing may be trained any more
    assert main(arguments) == 0
    assert (out / "metrics.jsonl").read_bytes() == history
    assert (out / "sample" / "siamese-step00000002.png").is_file()
    found = read_weights(out / "siamese.safetensors").tensors
    assert all(torch.equal(found[key], saved[key]) for key in saved)
    assert not (out / "state").exists()  # nobody asked for states


def test_a_finished_run_leaves_its_last_checkpoints(uninterrupted: Path) -> None:
    states = sorted(path.name for path in (uninterrupted / "state").iterdir())
    assert states == ["step00000007", "step00000008"]
    weights = sorted(path.name for path in uninterrupted.glob("*.safetensors"))
    assert weights == [
        "siamese-step00000006.safetensors",
        "siamese-step00000007.safetensors",
        "siamese.safetensors",
    ]


def test_the_logged_learning_rate_is_the_one_that_was_used(uninterrupted: Path) -> None:
    found = [line["learning_rate"] for line in metrics(uninterrupted)]
    cosine = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert found == pytest.approx([1e-3 * share for share in (0, 0.5, *cosine)])


def stop_at_step_three(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the third step has a finite loss, but gradients that are not."""
    losses = Objective.losses

    def steep(objective: Objective, batch: Batch, step: int, backward: object) -> object:
        def root(terms: Tensor) -> None:
            zero = (terms - terms.detach()).sqrt()  # infinitely steep
            backward(terms + zero if step == 2 else terms)  # type: ignore[operator]

        return losses(objective, batch, step, root)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "losses", steep)
        assert main(arguments) == 1


def test_gradients_that_are_not_finite_change_nothing(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_at_step_three([*command, f"--output_dir={tmp_path / 'out'}"], monkeypatch)
    message = capsys.readouterr().err
    state = tmp_path / "out/state/step00000002"
    assert "error: step 3: not finite: gradient norm = " in message
    assert f"--resume {state} and a lower --learning_rate" in message
    assert RunFolder(tmp_path / "out", "siamese").latest_state() == state
    assert_finite(tmp_path / "out")
    assert [step for step, _ in losses(tmp_path / "out")] == [1, 2]


def test_a_run_resumes_with_a_lower_learning_rate(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = [*command, f"--output_dir={out}"]
    stop_at_step_three(arguments, monkeypatch)
    lower = [*arguments, "--learning_rate=1e-4"]
    assert main(lower) == 2
    assert "--learning_rate was 0.001, is 0.0001" in capsys.readouterr().err
    state = out / "state/step00000002"
    assert main([*lower, f"--resume={state}"]) == 0
    cosine = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    expected = [0, 0.5e-3, *(1e-4 * share for share in cosine)]
    assert [line["learning_rate"] for line in metrics(out)] == pytest.approx(expected)
    assert json.loads((out / "config.json").read_text())["learning_rate"] == 1e-4
    optimizer = torch.load(out / "state/step00000007/optimizer.pt", weights_only=True)["optimizer"]
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(1e-4 * cosine[5])


def test_a_named_state_is_checked_against_the_command(
    command: list[str], uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command, f"--output_dir={tmp_path / 'out'}"]
    states = uninterrupted / "state"
    for more, expected in (
        ([f"--resume={states / 'step00000007'}", "--seed=7"], "--seed was 42, is 7"),
        ([f"--resume={states / 'step00000008'}"], "step 8 of --max_train_steps 8, nothing is left"),
        ([f"--resume={states}"], "not a training state"),
    ):
        assert main([*arguments, *more]) == 2
        assert expected in capsys.readouterr().err
    # Old states have no record of their own.
    shutil.copytree(uninterrupted, tmp_path / "old")
    old = tmp_path / "old/state/step00000007"
    (old / "state.json").write_text('{"step": 7}', encoding="utf-8")
    assert main([*arguments, f"--resume={old}", "--seed=7", "--dry_run"]) == 2
    assert "--seed was 42, is 7" in capsys.readouterr().err
    assert main([*arguments, f"--resume={old}", "--dry_run"]) == 0
    # A folder with states of its own is not overwritten.
    (tmp_path / "old/siamese.safetensors").unlink()
    state = states / "step00000007"
    assert main([*command, f"--output_dir={tmp_path / 'old'}", f"--resume={state}"]) == 2
    assert "holds a run of its own" in capsys.readouterr().err


def test_another_base_model_does_not_continue_a_run(
    command: list[str], uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another file under the same name."""
    state = Path(shutil.copytree(uninterrupted / "state/step00000007", tmp_path / "state"))
    facts = json.loads((state / "state.json").read_text())
    facts["record"]["base_hash"] = "0" * 64
    (state / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    flags = [f"--output_dir={tmp_path / 'out'}", f"--resume={state}"]
    assert main([*command, *flags, "--dry_run"]) == 2
    assert "the base model is another file" in capsys.readouterr().err
