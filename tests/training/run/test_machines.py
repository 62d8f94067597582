"""Several machines: the same losses, few messages between them, and none waits for a dead one."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from siamese_diffusion.models.weights import read_weights
from siamese_diffusion.training.errors import FileError
from siamese_diffusion.training.run import folder, gradient_buckets, peers, shared_folder
from siamese_diffusion.training.run.gradient_buckets import make_buckets
from siamese_diffusion.training.run.trainer import Trainer
from siamese_diffusion.training.train_siamese import main
from support.folder_locks import looked_at
from support.machines import train_together
from support.small_runs import metrics
from support.tiny_runs import ROUNDING, differing, flags, train
from torch import distributed, nn

pytestmark = pytest.mark.slow  # whole trainings

Processes = multiprocessing.context.ForkServerContext
STEPS, BUCKET = 3, 1 << 18
CALLS = "all_reduces"  # a file beside the output folder


def count_all_reduces(calls: Path, rank: int) -> None:
    """Write a line with the number of values for each call, on the second machine."""
    all_reduce = distributed.all_reduce

    def counting(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if rank == 1:
            with calls.open("a") as file:
                file.write(f"{tensor.numel()}\n")
        return all_reduce(tensor, *arguments, **options)

    distributed.all_reduce = counting
    gradient_buckets.BUCKET_BYTES = BUCKET


MORE = [
    "--save_every_n_steps=2", "--sample_count=3", "--validation_split=0.34",
    "--validate_every_n_steps=2",
]  # fmt: skip
ONE = ["--train_batch_size=1", "--gradient_accumulation_steps=4"]
EACH_OF_TWO = ["--train_batch_size=1", "--gradient_accumulation_steps=2"]


@pytest.fixture(scope="module")
def one_machine(tiny: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("machine")
    train(tiny, pairs, out, *MORE, *ONE)
    AcceleratorState._reset_state(reset_partial_state=True)
    return out


@pytest.fixture(scope="module")
def two_machines(
    tiny: Path, pairs: Path, processes: Processes, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the same run by two processes, with CALLS beside it."""
    out = tmp_path_factory.mktemp("machines") / "out"
    command = flags(tiny, pairs, out, *MORE, *EACH_OF_TWO)
    count = partial(count_all_reduces, out.parent / CALLS)
    ended = train_together(processes, [command, command], out.parent, count)
    assert [process.code for process in ended] == [0, 0], ended
    return out


def assert_same(out: Path, expected: Path) -> None:
    """Losses, weights and previews; validation losses of those that have the same batches."""
    found, known = ([without_time(line) for line in metrics(each)] for each in (out, expected))
    assert len(found) == len(known)
    for line, other in zip(found, known, strict=True):
        assert line == pytest.approx(other, rel=1e-5, abs=1e-9)
    weights, others = (read_weights(f / "siamese.safetensors").tensors for f in (out, expected))
    assert differing(weights, others, ROUNDING) < 1e-3
    picture, other_picture = (
        np.asarray(Image.open(next(each.glob("sample/*3.png")))).astype(int)
        for each in (out, expected)
    )
    assert np.abs(picture - other_picture).max() <= 2


def without_time(line: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "seconds"}


def test_two_machines_equal_one(two_machines: Path, one_machine: Path) -> None:
    assert_same(two_machines, one_machine)


def test_gradients_are_added_up_in_few_large_pieces(two_machines: Path) -> None:
    sizes = [int(line) for line in (two_machines.parent / CALLS).read_text().splitlines()]
    weights = read_weights(two_machines / "siamese.safetensors").tensors
    values = sum(value.numel() for value in weights.values())
    pieces = len(sizes) // STEPS - 1  # and the losses
    assert len(sizes) == STEPS * (pieces + 1)
    assert pieces <= values * 4 / BUCKET + 1 < len(weights) / 4
    assert sum(sizes) == pytest.approx(STEPS * values, rel=1e-3)


def test_another_number_of_processes_resumes(
    two_machines: Path,
    one_machine: Path,
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As if the two had been killed in the last step, and one takes over their four pairs."""
    out = tmp_path / "out"
    shutil.copytree(two_machines, out)
    (out / "siamese.safetensors").unlink()
    shutil.rmtree(out / "state/step00000003")
    assert main(flags(tiny, pairs, out, *MORE, *EACH_OF_TWO)) == 2
    assert "--num_processes was 2, is 1" in capsys.readouterr().err
    assert main(flags(tiny, pairs, out, *MORE, *ONE)) == 0
    assert_same(out, one_machine)


def test_more_processes_take_over(
    one_machine: Path, tiny: Path, pairs: Path, processes: Processes, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(one_machine, out)
    (out / "siamese.safetensors").unlink()
    shutil.rmtree(out / "state/step00000003")
    command = flags(tiny, pairs, out, *MORE, *EACH_OF_TWO)
    ended = train_together(processes, [command, command], tmp_path)
    assert [process.code for process in ended] == [0, 0], ended
    assert "Resuming from" in ended[0].said
    assert_same(out, one_machine)


def kill_the_second(rank: int) -> None:
    if rank == 1:
        at_the_second_step(lambda: os.kill(os.getpid(), signal.SIGKILL))


def fail_on_the_second(rank: int) -> None:
    """The first waits meanwhile, as for a message that never comes."""

    def fail() -> None:
        raise FileError("no such picture")

    peers.GRACE_SECONDS = 0.2
    at_the_second_step(fail if rank == 1 else lambda: threading.Event().wait())


def at_the_second_step(action: Callable[[], object]) -> None:
    train_step = Trainer.train_step

    def doing(trainer: Trainer) -> object:
        if trainer.step == 1:
            action()
        return train_step(trainer)

    Trainer.train_step = doing  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    ("prepare", "second", "reason"),
    [
        (kill_the_second, -signal.SIGKILL, "process 1 on node1 has ended without a word: it was"),
        (fail_on_the_second, 1, "process 1 on node1 has failed: after step 1: no such picture"),
    ],
    ids=["killed", "failed"],
)
def test_a_process_that_ends_ends_the_others_with_its_reason(
    prepare: Callable[[int], None],
    second: int,
    reason: str,
    tiny: Path,
    pairs: Path,
    processes: Processes,
    tmp_path: Path,
) -> None:
    command = flags(tiny, pairs, tmp_path / "out", "--train_batch_size=2")
    ended = train_together(processes, [command, command], tmp_path, prepare)
    assert [process.code for process in ended] == [1, second], ended
    assert f"error: {reason}" in ended[0].said
    assert "Traceback" not in ended[0].said


def hide_the_lock_from_the_second(rank: int) -> None:
    shared_folder.VISIBLE_WITHIN = 0
    if rank == 1:
        folder.LOCK = "of another disk"


def note_whether_the_folder_is_held(out: Path, rank: int) -> None:
    def note() -> None:
        (out.parent / "seen").write_text(looked_at(out, folder.LOCK))

    if rank == 0:
        at_the_second_step(note)


def test_the_folder_is_held_as_long_as_machines_train(
    tiny: Path, pairs: Path, processes: Processes, tmp_path: Path
) -> None:
    """To look into the lock's file drops it, for the process that holds it."""
    command = flags(tiny, pairs, tmp_path / "out", "--train_batch_size=2")
    prepare = partial(note_whether_the_folder_is_held, tmp_path / "out")
    ended = train_together(processes, [command, command], tmp_path, prepare)
    assert [process.code for process in ended] == [0, 0], ended
    assert (tmp_path / "seen").read_text() == "held"


def test_machines_without_a_shared_folder_are_told(
    tiny: Path, pairs: Path, processes: Processes, tmp_path: Path
) -> None:
    command = flags(tiny, pairs, tmp_path / "out", "--train_batch_size=2")
    ended = train_together(processes, [command, command], tmp_path, hide_the_lock_from_the_second)
    assert [process.code for process in ended] == [2, 2], ended
    assert "node1 does not see there what the first process, on node0, has written" in ended[0].said
    assert not (tmp_path / "out").exists()


def test_buckets_keep_the_order_and_a_size() -> None:
    parameters = [nn.Parameter(torch.empty(count)) for count in (100, 1, 300, 5, 5, 1000, 1)]
    buckets = make_buckets(parameters, 1600)
    assert [id(p) for bucket in buckets for p in bucket] == [id(p) for p in parameters]
    assert [[p.numel() for p in bucket] for bucket in buckets] == [[100, 1, 300], [5, 5, 1000], [1]]
