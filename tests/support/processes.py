"""Programs in processes of their own: one, two that train together, or one with fewer rights."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from support.paths import TRAIN_SCRIPT

POLL_SECONDS = 0.01
DEADLINE = 1800  # seconds; so that what hangs ends some day, never to measure anything
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h
CAP_DAC_READ_SEARCH, CAPABILITY_VERSION = 2, 0x20080522
# At random moments, of one command; `make kills` has more.
KILLS = int(os.environ.get("KILLS", "2"))

Finished = subprocess.CompletedProcess[str]


def run(
    command: Sequence[object],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Finished:
    """Run it with these variables added to the environment; `before` is called in the child."""
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


def end_with(
    main: Callable[[list[str]], int], arguments: list[str], log: Path, cwd: Path | None = None
) -> NoReturn:
    """Run a command and end the process, for processes that are started for it.

    What it says is in `log`, whatever ends it.
    """
    import torch

    torch.set_num_threads(1)
    if cwd is not None:
        os.chdir(cwd)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    os._exit(main(arguments))


def launch_script(
    launcher: Sequence[str], arguments: Sequence[str], env: Mapping[str, str]
) -> Finished:
    """train_siamese.py under accelerate's launcher with these flags.

    PET_STANDALONE and port 0 let torch's launcher take a port that is free.
    """
    command = [
        sys.executable, "-m", "accelerate.commands.launch", *launcher, "--mixed_precision=no",
        "--dynamo_backend=no", "--num_cpu_threads_per_process=1", "--main_process_port=0",
    ]  # fmt: skip
    return run([*command, TRAIN_SCRIPT, *arguments], env={"PET_STANDALONE": "1", **env})


def launch_two(arguments: Sequence[str], env: Mapping[str, str]) -> str:
    """Train in two processes, as a launcher starts them for two GPUs; what they say."""
    flags = ["--multi_gpu", "--num_processes=2", "--num_machines=1"]
    result = launch_script(flags, arguments, env)
    assert result.returncode == 0, result.stderr
    return result.stderr


def heed_permissions() -> None:
    """Give up root's right to write where permissions forbid it; for `before`, in the child.

    The child is still root by name, so that it can read what belongs to root.
    """
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        raise OSError("root may not give up CAP_DAC_OVERRIDE here")


@contextmanager
def without_rights() -> Iterator[None]:
    """Within it this process heeds permissions, also where it is root's."""
    read, write = ctypes.CDLL(None).capget, ctypes.CDLL(None).capset
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    kept = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    if read(header, kept):
        raise OSError("this system tells no capabilities")
    fewer = (ctypes.c_uint32 * 6)(*kept)
    fewer[0] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    if write(header, fewer):
        raise OSError("root may not give up its rights here")
    try:
        yield
    finally:
        write(header, kept)


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not in {DEADLINE} s"
        time.sleep(POLL_SECONDS)


def children(process: int | None) -> list[int]:
    """The processes that a process has started, on Linux; none before it has any."""
    try:
        return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
    except OSError:
        return []


def running(process: int) -> bool:
    """Whether it has not ended; on Linux."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def kill_and_await_its_children(process: BaseProcess) -> None:
    """Kill a process, and return when those that it has started have ended too, as they must."""
    workers = children(process.pid)
    assert len(workers) >= 2
    try:
        process.kill()
        process.join()
        wait_until(lambda: not any(map(running, workers)), "they end")
    finally:
        for worker in filter(running, workers):
            os.kill(worker, signal.SIGKILL)
