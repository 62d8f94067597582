"""Processes that train together as if each were on a machine of its own, on this one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
from siamese_diffusion.training.train_siamese import main

LONGEST_WAIT = 60  # seconds, in which a process must have noticed that another has ended

Prepare = Callable[[int], None]  # called in a process with its rank, before it trains


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, and what it has said."""

    code: int | None
    said: str


def train_together(
    processes: ForkServerContext,
    commands: Sequence[Sequence[str]],
    log_folder: Path,
    prepare: Prepare | None = None,
) -> list[Ended]:
    """Train with one process for each command line; how each ended. Any that hangs is killed.

    `prepare` must be a function of a module, or a `partial` of one.
    """
    port = _free_port()
    logs = [log_folder / f"{rank}.log" for rank in range(len(commands))]
    started = [
        processes.Process(target=_machine, args=(rank, len(commands), port, command, log, prepare))
        for rank, (command, log) in enumerate(zip(commands, logs, strict=True))
    ]
    for process in started:
        process.start()
    # The last one first: it is the one that is made to fail.
    started[-1].join()
    for process in started:
        process.join(LONGEST_WAIT)
        process.kill()
        process.join()
    return [
        Ended(process.exitcode, log.read_text()) for process, log in zip(started, logs, strict=True)
    ]


def _machine(
    rank: int, count: int, port: int, command: list[str], log: Path, prepare: Prepare | None
) -> None:
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, sys.stderr.fileno())
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    socket.gethostname = lambda: f"node{rank}"
    torch.set_num_threads(1)
    if prepare:
        prepare(rank)
    os._exit(main(command))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
