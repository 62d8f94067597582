"""States are written while training goes on, where memory has room for a copy."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from siamese_diffusion.common import memory
from siamese_diffusion.common.memory import free_memory
from siamese_diffusion.models.weights import read_weights, write_weights
from siamese_diffusion.training.run import states
from siamese_diffusion.training.run.gradient_update import GradientUpdate
from siamese_diffusion.training.run.states import State, read_optimizer
from siamese_diffusion.training.run.trainer import Trainer
from siamese_diffusion.training.train_siamese import main
from support.processes import wait_until
from support.small_runs import metrics
from support.tiny_runs import flags, train

SAVING = ["--save_every_n_steps=1", "--max_train_steps=3", "--keep_last_n=3", "--ema_decay=0.9"]


@pytest.fixture(scope="module")
def in_the_loop(tiny: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without memory for copies, and which states were there before each step."""
    out = tmp_path_factory.mktemp("in the loop") / "out"
    there: list[list[str]] = []
    train_step = Trainer.train_step

    def noting(trainer: Trainer) -> Any:
        there.append([path.name for path in trainer.folder.complete_states()])
        return train_step(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "free_memory", lambda: 1000)
        patch.setattr(Trainer, "train_step", noting)
        train(tiny, pairs, out, *SAVING)
    assert there == [[], ["step00000001"], ["step00000001", "step00000002"]]
    return out


def test_training_goes_on_meanwhile_and_the_state_is_that_of_its_step(
    in_the_loop: Path, tiny: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    held: list[int] = []

    def slowly(path: Path, *arguments: Any) -> None:
        step = int(path.parent.name.removeprefix(".step").removesuffix(".tmp"))
        if step < 3 and not held:  # nothing is written before the next step is done
            wait_until(lambda: len(metrics(out)) > step, "the next step")
            held.append(step)
        write_weights(path, *arguments)

    monkeypatch.setattr(states, "write_weights", slowly)
    train(tiny, pairs, out, *SAVING)
    assert held == [1]
    for step in (1, 2, 3):
        found, expected = (folder / f"state/step{step:08}" for folder in (out, in_the_loop))
        for name in ("weights.safetensors", "ema.safetensors"):
            ours, theirs = (read_weights(state / name).tensors for state in (found, expected))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert_equal(read_optimizer(found), read_optimizer(expected))


def assert_equal(found: object, expected: object) -> None:
    """Of nested tables and lists with tensors."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor) and torch.equal(found, expected)
    elif isinstance(expected, Mapping):
        assert isinstance(found, Mapping) and found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_equal(ours, theirs)
    else:
        assert found == expected


def test_a_state_that_cannot_be_written_ends_the_run_at_a_step(
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(state: Path, _saved: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(state / "optimizer.pt"))

    monkeypatch.setattr(states, "write_optimizer", fail)
    out = tmp_path / "out"
    command = flags(tiny, pairs, out, "--save_every_n_steps=1", "--max_train_steps=1000")
    assert main(command) == 1
    assert "optimizer.pt: No space left on device" in capsys.readouterr().err
    assert len(metrics(out)) < 1000
    assert [*(out / "state").iterdir()] == []


def test_nothing_is_left_where_a_state_cannot_be_collected(
    tiny: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where DeepSpeed, which writes by itself, meets a full disk."""

    def fail(_update: object, folder: Path) -> None:
        (folder / "a part").touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "a part"))

    monkeypatch.setattr(GradientUpdate, "state", fail)
    assert main(flags(tiny, pairs, tmp_path / "out", "--save_every_n_steps=1")) == 1
    assert [*(tmp_path / "out/state").iterdir()] == []


def test_a_copy_must_fit_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(1, {"a": torch.zeros(10)}, None, {"state": {0: {"b": torch.zeros(5)}}}, {})
    for free, fits in ((119, False), (120, True)):
        monkeypatch.setattr(states, "free_memory", lambda free=free: free)
        assert state.can_be_copied() is fits


def test_limits_of_control_groups_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel's documents have them, versions 1 and 2 (cgroup-v1/memory.rst, cgroup-v2)."""
    own = tmp_path / "own"
    monkeypatch.setattr(memory, "OWN_GROUPS", own)
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    system = free_memory()  # no such file: no groups
    job, task = tmp_path / "job", tmp_path / "job/task"
    task.mkdir(parents=True)
    for group, limit in ((job, "7000"), (task, "max")):
        write_group(group, limit, "memory.max", "memory.current", "inactive_file")
    own.write_text("0::/job/task\n")
    assert free_memory() == 7000 - 5000 + 400
    (job / "memory.max").write_text("max\n")
    assert free_memory() > system / 2  # of the system, which changes meanwhile
    first = tmp_path / "memory/docker"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    write_group(first, "6000", *names)
    own.write_text("3:cpu,cpuacct:/docker\n2:memory:/docker\n0::/\n")
    assert free_memory() == 6000 - 5000 + 400


def write_group(group: Path, limit: str, most: str, used: str, cached: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / most).write_text(f"{limit}\n")
    (group / used).write_text("5000\n")
    (group / "memory.stat").write_text(f"anon 4000\n{cached} 400\n")
