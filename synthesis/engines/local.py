"""Processes of this machine: one for each GPU, or as many as are asked for."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from ...common.processes import end_with
from ..errors import StoppedError
from ..jobs import Job
from ..shard import ImageModel, Outcome

MakeModel = Callable[[str], ImageModel]  # device -> model, for a process of its own


def devices() -> list[str]:
    """Every GPU of this machine, or the CPU."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def run_locally(
    job: Job, units: Iterable[int], make_model: MakeModel, processes: int
) -> Iterator[Outcome]:
    """Make the units' pairs; what became of each, as it is done.

    Raises StoppedError where a process ends early, and whatever ends one of them.
    """
    places = devices()
    if processes == 1:
        yield from job.make(units, make_model(places[0]))
        return
    workers = [Worker(job, make_model, places[number % len(places)]) for number in range(processes)]
    try:
        yield from _share(workers, iter(units), job.chunk)
    finally:
        for worker in workers:
            worker.end()


def _share(workers: list[Worker], units: Iterator[int], chunk: int) -> Iterator[Outcome]:
    """Give each worker a chunk of units whenever it has done one."""
    busy: dict[Any, Worker] = {}
    for worker in workers:
        if given := list(islice(units, chunk)):
            worker.connection.send(given)
            busy[worker.connection] = worker
    while busy:
        for connection in wait([*busy]):
            worker = busy.pop(connection)
            yield from worker.receive()
            if given := list(islice(units, chunk)):
                worker.connection.send(given)
                busy[connection] = worker


class Worker:
    """A process with a model of its own."""

    def __init__(self, job: Job, make_model: MakeModel, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=work, args=(theirs, job, make_model, device), daemon=True
        )
        self.process.start()
        theirs.close()  # so that reading fails when the process has ended

    def receive(self) -> list[Outcome]:
        try:
            found = self.connection.recv()
        except EOFError:
            self.process.join()
            raise StoppedError(
                f"a process ended early (exit code {self.process.exitcode}; -9: killed, most often "
                "because memory ran out). Give the same command again to go on."
            ) from None
        if isinstance(found, BaseException):
            raise found
        return list(found)

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.connection.close()


def work(connection: Connection, job: Job, make_model: MakeModel, device: str) -> None:
    """A worker's life: a chunk of units in, their outcomes out, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    # Else a run that is started again would meet it, and both would make the same pairs.
    end_with(multiprocessing.parent_process())
    with suppress(EOFError, BrokenPipeError):
        try:
            model = make_model(device)
            while True:
                connection.send(list(job.make(connection.recv(), model)))
        except EOFError:
            raise
        except Exception as error:
            connection.send(error)
