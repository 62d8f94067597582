"""Loss of power: pairs that a list names are whole on the disk, and a run goes on from the rest."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from siamese_diffusion.synthesis.jobs import Job
from support.needs import Need
from support.power_loss import DurableDisk, Moments, put_back
from support.synthesis_runs import contents, random_job, run_job, tar_job, unpacked

pytestmark = Need.LINUX.unless(sys.platform == "linux")

PAIRS = 20  # the tar job packs 16 in a file
JOBS = pytest.mark.parametrize("make_job", [random_job, tar_job], ids=["folder", "tar"])
MakeJob = Callable[[Path, int], Job]


def assert_whole(disk: DurableDisk) -> None:
    """Every picture under its final name, and every pair that a list names."""
    files = {path: data for path, data in disk.files().items() if "/." not in path}
    members = unpacked(files)
    for path, data in members.items():
        if path.endswith(".png"):
            Image.open(io.BytesIO(data)).load()
    for path, data in files.items():
        if path.endswith("manifest.json"):
            assert json.loads(data)["pairs"] == PAIRS
        if path.endswith(".jsonl"):
            lines = [json.loads(line) for line in data.splitlines()]
            assert len(lines) == PAIRS
            named = {f"out/{line[key]}" for line in lines for key in ("source", "target")}
            assert named <= members.keys()


@JOBS
def test_what_a_list_names_outlives_a_loss_of_power(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        disk = DurableDisk(tmp_path, patch, assert_whole)
        run_job(make_job(out, PAIRS), out)
    there = {path for path in disk.files() if "/." not in path}
    assert {f"out/{name}" for name in contents(out)} <= there
    assert {"out/settings.json", "out/manifest.json"} <= there
    disk.close()


@JOBS
def test_a_run_goes_on_from_what_a_loss_of_power_has_left(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At random moments; the folder is where the run is started again, with that alone in it."""
    out, moments = tmp_path / "out", Moments(5)
    with monkeypatch.context() as patch:
        disk = DurableDisk(tmp_path, patch, moments)
        run_job(make_job(out, PAIRS), out)
    disk.close()
    expected = contents(out)
    for files in moments.kept:
        shutil.rmtree(out)
        put_back(files, tmp_path)
        run_job(make_job(out, PAIRS), out)
        assert contents(out) == expected
