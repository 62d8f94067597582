"""On a real Ray cluster of several nodes on this machine: the dataset is whole whatever dies."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from siamese_diffusion.synthesis.engines.local import MakeModel
from siamese_diffusion.synthesis.errors import SynthesisError
from siamese_diffusion.synthesis.records import Record, claim
from siamese_diffusion.synthesis.run import synthesize
from siamese_diffusion.synthesis.settings import Shard
from siamese_diffusion.synthesis.shard import Wanted
from siamese_diffusion.synthesis.synthesize import main
from support.needs import Need
from support.paths import ROOT
from support.processes import wait_until
from support.stub_models import (
    MakeKilled,
    MakeSlow,
    Stub,
    make_stub,
    make_where_a_gpu_is_given,
)
from support.synthesis_runs import (
    contents,
    most_different,
    random_job,
    run_job,
    synthesis_flags,
)

pytest_plugins = ["support.synthesis_runs"]
ray = pytest.importorskip("ray", reason=Need.RAY.reason)
pytestmark = pytest.mark.slow
PAIRS = 60
# Seconds instead of half a minute until a node that is gone counts as gone.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 20,
    # On a busy machine a worker takes longer to import than Ray waits for it; it would start
    # another one, for ever.
    "worker_register_timeout_seconds": 600,
}


@contextmanager
def a_head_without_work() -> Iterator[Any]:
    """A cluster that has no other node yet. Workers find tests/support too."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT / "tests"))
        patched.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
        running = Cluster(initialize_head=True, head_node_args=head)
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes: a head without work, and two of one CPU."""
    with a_head_without_work() as running:
        for _ in range(2):
            running.add_node(num_cpus=1)
        yield running


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process of this machine makes."""
    folder = tmp_path_factory.mktemp("expected")
    run_job(random_job(folder, PAIRS), folder)
    return contents(folder)


def run_on(cluster: Any, folder: Path, make_model: MakeModel = make_stub) -> Record:
    from siamese_diffusion.synthesis.engines.ray_cluster import run_on_ray

    claim(folder, {})
    engine = partial(run_on_ray, make_model=make_model, address=cluster.address)
    return synthesize(random_job(folder, PAIRS), folder, {}, Shard(), engine)


def test_a_cluster_that_has_only_its_head_waits_for_nodes_and_uses_their_gpus(
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As right after `ray up`. Ray does not look whether a GPU that it is told of is there."""
    from siamese_diffusion.synthesis.engines import ray_cluster

    caplog.set_level("INFO")
    with a_head_without_work() as cluster, ThreadPoolExecutor(1) as pool:
        with monkeypatch.context() as patched:
            patched.setattr(ray_cluster, "MOST_MINUTES", 0)
            with pytest.raises(SynthesisError, match=r"no node with a GPU or a CPU has joined"):
                run_on(cluster, tmp_path)
        caplog.clear()
        running = pool.submit(run_on, cluster, tmp_path, make_where_a_gpu_is_given)
        wait_until(lambda: running.done() or "waiting for the first" in caplog.text, "it waits")
        cluster.add_node(num_cpus=1, num_gpus=1)
        assert running.result().made == PAIRS
    assert contents(tmp_path) == expected


def test_the_command_line_makes_the_same_on_ray_as_in_one_process(
    tiny_weights: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")
    for name, more in (("one", []), ("ray", ["--ray=local"])):
        assert main(synthesis_flags(tiny_weights, masks, tmp_path / name, *more)) == 0
    assert len(contents(tmp_path / "ray")) == 7
    assert most_different(contents(tmp_path / "ray"), contents(tmp_path / "one")) <= 1


def count_images(folder: Path) -> int:
    return len([*folder.glob("images/*.png")])


def test_a_node_that_is_lost_loses_no_pair(
    cluster: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    lost = cluster.add_node(num_cpus=1)

    def lose() -> None:
        wait_until(lambda: count_images(tmp_path) >= 4, "the first images")
        cluster.remove_node(lost, allow_graceful=False)

    losing = Thread(target=lose)
    losing.start()
    record = run_on(cluster, tmp_path, MakeSlow(0.2))
    losing.join()
    assert record.pairs == PAIRS
    assert contents(tmp_path) == expected


def test_a_worker_that_runs_out_of_memory_is_replaced(
    cluster: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    marker = tmp_path / "killed"
    assert run_on(cluster, tmp_path, MakeKilled(marker)).pairs == PAIRS
    assert marker.exists()
    assert contents(tmp_path) == expected


@dataclass
class Full(Stub):
    """At its second batch the disk is full, until `marker` is there."""

    marker: Path
    batches: int = 0

    def images(self, batch: Sequence[Wanted]) -> list[np.ndarray]:
        self.batches += 1
        if self.batches == 2 and not self.marker.exists():
            raise OSError(errno.ENOSPC, "No space left on device", "out/images/a.png")
        return super().images(batch)


@dataclass(frozen=True)
class MakeFull:
    marker: Path

    def __call__(self, _device: str) -> Full:
        return Full(self.marker)


@pytest.mark.long
def test_a_full_disk_ends_the_run_with_its_reason_and_the_same_command_goes_on(
    cluster: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    marker = tmp_path / "room again"
    with pytest.raises(SynthesisError, match="No space left on device"):
        run_on(cluster, tmp_path, MakeFull(marker))
    marker.touch()
    record = run_on(cluster, tmp_path, MakeFull(marker))
    assert (record.pairs, record.there > 0) == (PAIRS, True)
    assert contents(tmp_path) == expected


@pytest.mark.long
def test_a_driver_that_is_killed_is_started_again(
    cluster: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    code = (
        "from support.synthesis_runs import random_job\n"
        "from support.stub_models import MakeSlow\n"
        "from siamese_diffusion.synthesis.engines.ray_cluster import run_on_ray\n"
        "from siamese_diffusion.synthesis.records import claim\n"
        "from pathlib import Path\n"
        f"claim(Path({str(tmp_path)!r}), {{}})\n"
        f"job = random_job(Path({str(tmp_path)!r}), {PAIRS})\n"
        f"list(run_on_ray(job, range({PAIRS}), MakeSlow(0.2), {cluster.address!r}))\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: count_images(tmp_path) >= 4, "the first images")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    there = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(there) < 2 * PAIRS
    assert run_on(cluster, tmp_path).pairs == PAIRS
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert contents(tmp_path) == expected


def test_an_output_folder_that_the_nodes_do_not_see_is_named(cluster: Any, tmp_path: Path) -> None:
    from siamese_diffusion.synthesis.engines.ray_cluster import run_on_ray

    with pytest.raises(SynthesisError, match=r"does not see what is in it"):
        list(run_on_ray(random_job(tmp_path), range(8), make_stub, cluster.address))


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    from siamese_diffusion.synthesis.engines.ray_cluster import run_on_ray

    job = random_job(tmp_path)
    with pytest.raises(SynthesisError, match=r"--ray 127.0.0.1:1: no cluster there"):
        list(run_on_ray(job, range(len(job)), make_stub, "127.0.0.1:1"))
