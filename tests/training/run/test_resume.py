"""Never losing work: whatever ends a run, the same command resumes as if nothing had happened."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import siamese_diffusion
import torch
from PIL import Image
from safetensors import safe_open
from siamese_diffusion.models.weights import read_weights
from siamese_diffusion.training.method.objective import Batch, Objective
from siamese_diffusion.training.run import metrics as metrics_file
from siamese_diffusion.training.run.background import Background
from siamese_diffusion.training.run.checkpoint import Checkpoints
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.run.trainer import Trainer
from siamese_diffusion.training.train_siamese import main
from support.paths import ROOT
from support.small_runs import metrics
from support.tiny_base import write_tiny_base
from torch import Tensor

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]  # whole trainings

STEPS = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture(scope="module")
def command(base: Path, pairs: Path) -> list[str]:
    """A run of eight steps with everything that has a state: optimizer, scheduler, EMA."""
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


def run(arguments: list[str], watch: Callable[[str], None] | None = None) -> None:
    """Train and end the process; `watch` is told of each thing that is about to be written."""
    assert Path(siamese_diffusion.__file__).parent == ROOT
    torch.set_num_threads(1)
    if watch:
        announce_writes(watch)
    os._exit(main(arguments))


def announce_writes(watch: Callable[[str], None]) -> None:
    """Call `watch` before a file gets its name, is renamed or gets a line, in this process."""

    def announced(function: Callable[..., Any], place: int) -> Callable[..., Any]:
        def announcing(*arguments: Any) -> Any:
            what = arguments[place]
            watch(f"{function.__name__} {what.name if isinstance(what, Path) else what}")
            return function(*arguments)

        return announcing

    def at_once(self: Background, task: Callable[[], None]) -> None:
        task()

    # What is written beside the loop is written in it, so that every run has the same order.
    Background.start = at_once  # type: ignore[method-assign]
    os.replace = announced(os.replace, 1)
    os.rename = announced(os.rename, 1)
    metrics_file.append = announced(metrics_file.append, 1)


class WriteDown:
    """Keeps what is written in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(what + "\n")


class KillBefore:
    """Kills the process when one thing is about to be written for the n-th time."""

    def __init__(self, what: str, occurrence: int) -> None:
        self.what, self.left = what, occurrence

    def __call__(self, what: str) -> None:
        self.left -= what == self.what
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run_in_process(
    processes: multiprocessing.context.ForkServerContext, *arguments: object
) -> int | None:
    """The exit code of `run` in a process of its own."""
    process = processes.Process(target=run, args=arguments)
    process.start()
    process.join(300)
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(
    command: list[str],
    processes: multiprocessing.context.ForkServerContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    assert run_in_process(processes, [*command, f"--output_dir={out}"]) == 0
    return out


def assert_same_run(out: Path, expected: Path) -> None:
    """Equal weights bit for bit, and the same history."""
    assert_same_tensors(out / "siamese.safetensors", expected / "siamese.safetensors")
    assert losses(out) == losses(expected)


def assert_same_tensors(path: Path, expected: Path) -> None:
    found, known = read_weights(path).tensors, read_weights(expected).tensors
    assert found.keys() == known.keys()
    assert [key for key in known if not torch.equal(found[key], known[key])] == []


def losses(out: Path) -> list[tuple[float, float]]:
    return [(line["step"], line["loss"]) for line in metrics(out) if "loss" in line]


def assert_same_folder(out: Path, expected: Path) -> None:
    """The same files with the same content, but for times, dates and the folder's own name."""
    files = sorted(path.relative_to(expected) for path in expected.rglob("*"))
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == files
    for file in files:
        found, known = out / file, expected / file
        if file.suffix == ".safetensors":
            assert_same_tensors(found, known)
            assert metadata(found) == metadata(known)
        elif file.suffix == ".pt":
            assert_equal(*(torch.load(path, weights_only=True) for path in (found, known)))
        elif file.name == "metrics.jsonl":
            assert without_times(out) == without_times(expected)
        elif file.suffix == ".json":
            assert found.read_text().replace(str(out), str(expected)) == known.read_text()
        elif known.is_file():
            assert found.read_bytes() == known.read_bytes(), file


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    found.pop("modelspec.date")
    return found


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


def without_times(out: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in metrics(out)]


EVERYTHING = [  # is due at step 2 of 3
    "--max_train_steps=3", "--lr_warmup_steps=1", "--save_every_n_steps=2", "--keep_last_n=1",
    "--sample_every_n_steps=2", "--validate_every_n_steps=2", "--validation_split=0.34",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_killed_before_each_of_its_writes_ends_the_same(
    command: list[str], processes: multiprocessing.context.ForkServerContext, tmp_path: Path
) -> None:
    """Killed and started again, each time one write further, until nothing is left."""
    # Each in a folder of its own, where it finds no cache of the other.
    whole, out, order = tmp_path / "whole/out", tmp_path / "killed/out", tmp_path / "order"
    arguments = [*command, *EVERYTHING]
    assert run_in_process(processes, [*arguments, f"--output_dir={whole}"], WriteDown(order)) == 0
    writes = order.read_text().splitlines()
    killed = set()
    for number, what in enumerate(writes):
        watch = KillBefore(what, 1)
        code = run_in_process(processes, [*arguments, f"--output_dir={out}"], watch)
        if code == -signal.SIGKILL:
            killed.add(what)
        else:
            # It was written before the last kill, and need not be again.
            assert code == 0 and (out / "siamese.safetensors").exists(), (number, what)
            break
    assert {"replace siamese-step00000002.safetensors", "replace siamese-step00000002.png",
            "rename step00000002", "append 2", "replace siamese.safetensors"} <= killed  # fmt: skip
    if not (out / "siamese.safetensors").exists():
        assert run_in_process(processes, [*arguments, f"--output_dir={out}"]) == 0
    assert_same_folder(out, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 2])
def test_a_stopped_run_leaves_nothing_out(
    step: int, number: signal.Signals, command: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """At step 2 weights, preview and validation are due."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = [*command, *EVERYTHING]
    assert main([*arguments, f"--output_dir={whole}"]) == 0
    train_step = Trainer.train_step

    def interrupted(trainer: Trainer) -> object:
        if trainer.step == step - 1:
            signal.raise_signal(number)
        return train_step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        assert main([*arguments, f"--output_dir={out}"]) == 0
    assert [path.name for path in (out / "state").iterdir()] == [f"step{step:08d}"]
    assert not (out / "siamese.safetensors").exists()
    assert main([*arguments, f"--output_dir={out}"]) == 0
    assert_same_folder(out, whole)


def test_a_crash_after_the_state_sets_nothing_aside(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = [*command, *EVERYTHING, f"--output_dir={out}", "--save_precision=float"]

    def crash(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "publish", crash)
        assert main(arguments) == 1
    assert not list(out.glob("*.safetensors"))
    assert main(arguments) == 0
    assert not list(out.glob("set_aside*"))
    weights = out / "siamese-step00000002.safetensors"
    assert weights.is_file()
    assert (out / "siamese.safetensors").samefile(out / "state/step00000003/ema.safetensors")


def test_weights_are_copied_where_there_are_no_hard_links(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    full = "--save_precision=float"  # only then weights and state are the same
    assert main([*command, *EVERYTHING, f"--output_dir={tmp_path}", full]) == 0
    state = tmp_path / "state/step00000003/ema.safetensors"
    assert not (tmp_path / "siamese.safetensors").samefile(state)
    assert (tmp_path / "siamese.safetensors").read_bytes() == state.read_bytes()


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
    # In fp16 the weights would overflow before the loss does.
    flags = ["--learning_rate=1000", "--lr_warmup_steps=0", "--save_precision=float"]
    assert main([*command, f"--output_dir={out}", *flags]) == 1
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
        "--save_precision=float",
    ]
    arguments = [*command, f"--output_dir={out}", *flags]

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "publish", fail)
        assert main(arguments) == 1
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
