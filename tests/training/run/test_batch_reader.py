"""Reading ahead: the same rows from any number of worker processes, and errors that arrive."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.data import pair_pictures
from siamese_diffusion.training.data.batch_order import BatchOrder, Share
from siamese_diffusion.training.data.batches import TrainingData
from siamese_diffusion.training.data.framing import Framing
from siamese_diffusion.training.errors import FileError
from siamese_diffusion.training.method.objective import Batch
from siamese_diffusion.training.run.batch_reader import BatchReader
from support.small_datasets import CPU, SQUARE, config, load, prepared, write_list

STEPS = 20  # more than are read ahead
SHARE = Share(slice(2, 4), 4)  # the second of two processes


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingData:
    """Twelve pairs that are read at every step."""
    monkeypatch.setattr(pair_pictures, "IMAGE_MEMORY", 0)
    return prepared(load(write_list(tmp_path, [(32, 32)] * 12)), replace(SQUARE, flip=True))


@pytest.fixture
def run(tmp_path: Path) -> TrainConfig:
    return config(tmp_path, max_train_steps=STEPS, max_data_loader_n_workers=2)


@pytest.fixture
def reader(run: TrainConfig, data: TrainingData) -> Iterator[BatchReader]:
    with BatchReader(run, data, order(data), lambda _step: SHARE, CPU) as found:
        yield found


def workers() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def order(data: TrainingData) -> BatchOrder:
    return BatchOrder(data.sizes, SHARE.count, seed=42)


def test_workers_read_what_the_trainer_would_have_read_from_any_step_on(
    reader: BatchReader, run: TrainConfig, data: TrainingData
) -> None:
    for steps in (range(4), range(17, STEPS)):
        for step in steps:
            expected = data.batch(
                order(data).batch(step), run.seed, step, run.caption_dropout_rate, SHARE
            )
            for name, values in vars(reader.batch(step)).items():
                assert values is None or torch.equal(vars(expected)[name], values), (step, name)


@pytest.mark.parametrize(("device", "number"), [("cuda:3", 3), ("cuda", 0)])
def test_for_a_gpu_batches_lie_where_it_can_fetch_them(
    device: str,
    number: int,
    run: TrainConfig,
    data: TrainingData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without one: which GPU the reading thread has chosen, and that it has asked for the rest."""
    chosen: list[int] = []  # PyTorch refuses a device without a number
    fetched: list[torch.Tensor] = []

    def pinned(batch: Batch) -> Batch:
        assert chosen == [number]
        fetched.append(batch.noise)
        return batch

    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(Batch, "pin_memory", pinned)
    run = replace(run, max_train_steps=1, max_data_loader_n_workers=0)
    with BatchReader(run, data, order(data), lambda _step: SHARE, torch.device(device)) as reader:
        assert reader.batch(0).noise is fetched[0]


def test_what_a_spawned_worker_gets_is_small(tmp_path: Path) -> None:
    data = prepared(load(write_list(tmp_path, [(256, 256)] * 2)), Framing((256, 256)))
    job = data.job([0, 1], 0, 0)
    expected = data.pictures.load(job)
    sent = pickle.dumps(data.pictures)
    assert len(sent) < 256 * 256
    for found, known in zip(pickle.loads(sent).load(job), expected, strict=True):
        assert torch.equal(found, known)


def test_an_error_of_a_worker_is_the_same_as_without_it(
    reader: BatchReader, data: TrainingData
) -> None:
    for pair in data.pairs:
        pair.image.unlink()
    with pytest.raises(FileError) as found:
        reader.batch(0)
    assert str(found.value).endswith(".png: cannot be read any more (No such file or directory)")
    assert "\n" not in str(found.value)


def test_a_worker_that_is_killed_is_an_error_in_one_line(reader: BatchReader) -> None:
    reader.batch(0)
    for worker in workers():
        os.kill(worker, signal.SIGKILL)
    with pytest.raises(FileError, match=r"has ended \(.*--max_data_loader_n_workers"):
        for step in range(1, STEPS):
            reader.batch(step)


def test_signals_are_the_trainers_and_no_worker_stays(run: TrainConfig, data: TrainingData) -> None:
    with BatchReader(run, data, order(data), lambda _step: SHARE, CPU) as reader:
        for step in range(2):  # of each worker one: both are there
            reader.batch(step)
        assert len(workers()) == 2
        for worker in workers():
            os.kill(worker, signal.SIGINT)
            os.kill(worker, signal.SIGTERM)
        for step in range(2, STEPS):
            reader.batch(step)
    assert workers() == []
