"""A Ray cluster: actors that hold the model, as many as there are GPUs, replaced when they die.

Numbers go out and outcomes come back; every picture is written by the actor that has made it. Ray
may run a unit twice, when a node is lost; the files' names keep a pair from being made twice.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow
import ray
from ray.data import ActorPoolStrategy, Datasource, ReadTask
from ray.data.block import BlockMetadata

from ..errors import StoppedError, SynthesisError
from ..jobs import Job
from ..records import check_shared
from ..shard import ImageModel, Outcome
from .local import MakeModel, devices

log = logging.getLogger(__name__)

CHUNKS_PER_TASK = 8  # a task is what Ray schedules, and makes anew when its node is lost
TASKS_PER_ACTOR = 4  # at least, so that none waits long for the last one
MOST_ACTORS = 1024
CONNECT_SECONDS = 20
MOST_MINUTES = 60  # until the first node that can work has joined: machines are rented and set up
POLL_SECONDS = 1
RETRIES = 20  # of a task whose worker is killed, such as by lack of memory


def run_on_ray(
    job: Job, units: Sequence[int], make_model: MakeModel, address: str
) -> Iterator[Outcome]:
    """Make all units' pairs; what became of each, as it is done.

    address: "local" for a cluster of this machine alone, "auto" for the one it is in, or another's.
    Raises SynthesisError where there is no cluster, none of its nodes can work, or they do not see
    the output folder.
    """
    _connect(address)
    try:
        _wait_for_nodes(address)
        resources, actors = _resources()
        tasks = max(
            -(-len(units) // (job.chunk * CHUNKS_PER_TASK)),
            min(-(-len(units) // job.chunk), actors * TASKS_PER_ACTOR),
        )
        numbers = ray.data.read_datasource(Numbers(units), num_cpus=0, override_num_blocks=tasks)
        rows = numbers.map_batches(
            Synthesizer,
            fn_constructor_args=(ray.put(job), make_model),
            batch_size=job.chunk,
            compute=ActorPoolStrategy(min_size=1, max_size=MOST_ACTORS, initial_size=actors),
            max_task_retries=RETRIES,
            **resources,
        )
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from map(_outcome, batch.to_pylist())
    except ray.exceptions.RayError as error:
        raise StoppedError(
            f"--ray {address}: {error}. Give the same command again to go on."
        ) from error
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    # Their bars would be drawn over ours.
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        _check_reachable(address)
        ray.init(address, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SynthesisError(
            f"--ray {address}: no cluster there ({error}). Start one with `ray start --head`, or "
            "give --ray local."
        ) from error


def _check_reachable(address: str) -> None:
    """Raise ConnectionError at once where nothing listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "local" or "auto"
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{error}") from error


def _wait_for_nodes(address: str) -> None:
    """Return once there is a GPU or a CPU: right after `ray up` the head is alone, and has none.

    Raises SynthesisError when none has come for MOST_MINUTES.
    """
    deadline = time.monotonic() + 60 * MOST_MINUTES
    told = False
    while not {"GPU", "CPU"} & ray.cluster_resources().keys():
        if not told:
            log.info("--ray %s: no node has a GPU or a CPU yet; waiting for the first", address)
            told = True
        if time.monotonic() > deadline:
            raise SynthesisError(
                f"--ray {address}: no node with a GPU or a CPU has joined within {MOST_MINUTES} "
                "minutes. `ray status` says which there are."
            )
        time.sleep(POLL_SECONDS)


def _resources() -> tuple[dict[str, Any], int]:
    """What an actor takes, and how many there are now; more start when nodes are added."""
    there = ray.cluster_resources()
    if gpus := int(there.get("GPU", 0)):
        return {"num_gpus": 1}, gpus
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    cpus = [int(count) for count in nodes if count >= 1]
    return {"num_cpus": min(cpus, default=1)}, max(len(cpus), 1)


class Numbers(Datasource):
    """The units' numbers, in as many blocks as there are tasks.

    Not `ray.data.range`: reading it takes a CPU, and the actors may hold them all.
    """

    def __init__(self, units: Sequence[int]) -> None:
        super().__init__()
        self._units = units

    def estimate_inmemory_data_size(self) -> int:
        return 8 * len(self._units)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, **_others: Any
    ) -> list[ReadTask]:
        size = -(-len(self._units) // parallelism)
        parts = [self._units[i : i + size] for i in range(0, len(self._units), size)]
        return [
            ReadTask(
                partial(_block, part),
                BlockMetadata(len(part), 8 * len(part), input_files=None, exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for part in parts
        ]


def _block(units: Sequence[int]) -> list[pyarrow.Table]:
    return [pyarrow.table({"id": pyarrow.array(units, pyarrow.int64())})]


class Synthesizer:
    """An actor: its model, and a part of the job at a time.

    What stops the run comes back as a row, in words: Ray would put its own layers around it.
    """

    def __init__(self, job: Any, make_model: MakeModel) -> None:
        self.job: Job = ray.get(job)
        self._make_model = make_model
        self._model: ImageModel | None = None

    def __call__(self, batch: dict[str, Any]) -> pyarrow.Table:
        rows: list[dict[str, Any]] = []
        try:
            if self._model is None:
                check_shared(self.job.folder)
                self._model = self._make_model(devices()[0])
            for outcome in self.job.make(map(int, batch["id"]), self._model):
                rows.append({**asdict(outcome), "error": ""})
        except Exception as error:
            meant = isinstance(error, (ValueError, OSError))  # whose messages are for people
            text = str(error) if meant else f"{type(error).__name__}: {error}"
            rows = [{"name": "", "state": "", "problem": "", "error": text}]
        return pyarrow.Table.from_pylist(rows)


def _outcome(row: dict[str, Any]) -> Outcome:
    """An actor's row. Raises what it says has stopped the run."""
    if error := row.pop("error"):
        raise StoppedError(f"{error}. Give the same command again to go on.")
    return Outcome(**row)
