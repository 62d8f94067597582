"""Reading the rows of the next step while the present one is trained."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ...models.weights import first_line
from ..config import TrainConfig
from ..data.batch_order import BatchOrder, Share
from ..data.batches import TrainingData
from ..data.pair_pictures import Job
from ..errors import FileError
from ..method.objective import Batch
from .stop import SIGNALS

ShareOf = Callable[[int], Share]  # of a step
Pictures = tuple[Tensor, Tensor] | Exception  # masks and images, or why there are none


@dataclass(frozen=True)
class _Jobs:
    """The sampler: a job for each step from `first` on, so that a resumed run needs no memory."""

    config: TrainConfig
    data: TrainingData
    order: BatchOrder
    share_of: ShareOf
    first: int

    def __iter__(self) -> Iterator[Job]:
        for step in range(self.first, self.config.max_train_steps):
            indices, share = self.order.batch(step), self.share_of(step)
            yield self.data.job(indices, self.config.seed, step, share)


class BatchReader:
    """This process's rows of each step, on the CPU; read ahead by one, on a thread.

    Pictures are decoded there, or with --max_data_loader_n_workers by processes that the thread
    owns: one that dies is an error of the next batch, not of whatever the trainer does just then.
    Within it batches may be read; after it the thread and the processes are gone.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingData,
        order: BatchOrder,
        share_of: ShareOf,
        device: torch.device,
    ) -> None:
        self._config, self._data, self._order, self._share_of = config, data, order, share_of
        self._device, self._pinned = device, device.type == "cuda"
        self._thread = ThreadPoolExecutor(1, initializer=self._choose_gpu)
        self._reading: tuple[int, Future[Batch]] | None = None  # a step, and its batch
        self._pictures: Iterator[Pictures] = iter(())

    def __enter__(self) -> BatchReader:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._thread.submit(self._end)
        self._thread.shutdown()

    def batch(self, step: int) -> Batch:
        """The rows of a step, from 0 on. Raises what reading them has raised."""
        if self._reading is None or self._reading[0] != step:
            self._thread.submit(self._begin, step).result()
            self._reading = self._read_ahead(step)
        batch = self._reading[1].result()
        last = step + 1 == self._config.max_train_steps
        self._reading = None if last else self._read_ahead(step + 1)
        return batch

    def _read_ahead(self, step: int) -> tuple[int, Future[Batch]]:
        return step, self._thread.submit(self._read, step)

    # On the thread

    def _choose_gpu(self) -> None:
        if self._pinned:  # a new thread is on the first GPU, whichever is this process's
            # Alone, accelerate's device is "cuda" without a number, which set_device refuses.
            torch.cuda.set_device(self._device.index or 0)

    def _begin(self, step: int) -> None:
        loader: DataLoader[Any] = DataLoader(
            self._data.pictures,
            batch_size=None,  # a job is a batch already
            sampler=_Jobs(self._config, self._data, self._order, self._share_of, step),
            num_workers=min(self._config.max_data_loader_n_workers, os.cpu_count() or 1),
            worker_init_fn=_leave_signals_to_the_trainer,
            generator=torch.Generator(),  # not to draw from everybody's
        )
        self._pictures = iter(loader)

    def _read(self, step: int) -> Batch:
        try:
            pictures = next(self._pictures)
        except (RuntimeError, OSError, EOFError) as error:  # errors of reading files are values
            lost = "exited unexpectedly" in str(error) or not isinstance(error, RuntimeError)
            if not lost:
                raise
            raise FileError(
                f"a process that reads pictures has ended ({first_line(error)}). If it was killed "
                "for lack of memory, give fewer --max_data_loader_n_workers"
            ) from error
        if isinstance(pictures, Exception):
            raise pictures
        config, indices = self._config, self._order.batch(step)
        rate, share = config.caption_dropout_rate, self._share_of(step)
        batch = self._data.batch(indices, config.seed, step, rate, share, pictures)
        return batch.pin_memory() if self._pinned else batch

    def _end(self) -> None:
        self._pictures = iter(())


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """Ctrl-C and what a cluster sends reach every process of a run; the trainer answers them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
