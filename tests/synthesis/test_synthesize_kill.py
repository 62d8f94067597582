"""Killed at any moment, synthesis has every pair that it has made, and makes the others."""

from __future__ import annotations

import multiprocessing
import random
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from siamese_diffusion.common.pictures import read_image
from siamese_diffusion.synthesis.jobs import Job
from siamese_diffusion.synthesis.synthesize import main
from support import no_network
from support.needs import Need
from support.processes import KILLS, end_with, kill_and_await_its_children, wait_until
from support.stub_models import MakeSlow
from support.synthesis_runs import SIZE, contents, most_different, random_job, run_job, tar_job

pytest_plugins = ["support.synthesis_runs"]
pytestmark = pytest.mark.slow  # whole runs

linux: pytest.MarkDecorator = Need.LINUX.unless(no_network.AVAILABLE)
MASKS, IMAGES = 3, 2  # masks, and images of each


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(MASKS):
        pixels = np.zeros((SIZE, SIZE), np.uint8)
        pixels[4:20, 4 : 12 + 4 * number] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def finished_files(out: Path) -> dict[Path, int]:
    """All pictures and archives under their final names, with the time of writing; each whole."""
    found = [*out.glob("images/*.png"), *out.glob("masks/*.png"), *out.glob("*.tar")]
    for path in found:
        if path.suffix == ".png":
            assert read_image(path).shape == (SIZE, SIZE, 3)
        else:
            with tarfile.open(path) as archive:
                assert len(archive.getnames()) % 3 == 0
    return {path: path.stat().st_mtime_ns for path in found}


EVERYTHING = ["--augment_masks=1", "--sampler=DDIM", "--cfg=3"]


@pytest.mark.parametrize("more", [EVERYTHING, ["--tar"]], ids=["folder", "tar"])
def test_killed_at_random_moments_no_pair_is_lost_or_made_again(
    tiny_weights: Path, masks: Path, tmp_path: Path, more: list[str],
    processes: multiprocessing.context.ForkServerContext,
) -> None:  # fmt: skip
    def start(out: Path, kill_after: float | None) -> int | None:
        arguments = [
            f"--bundle={tiny_weights / 'siamese.safetensors'}", f"--masks={masks}",
            f"--output_dir={out}", "--steps=2", f"--images_per_mask={IMAGES}", "--batch_size=2",
            *([f"--backgrounds={masks}"] if more is EVERYTHING else []), *more,
        ]  # fmt: skip
        process = processes.Process(target=end_with, args=(main, arguments, log))
        process.start()
        process.join(kill_after)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
        return process.exitcode

    log = tmp_path / "log"
    began = time.monotonic()
    assert start(tmp_path / "whole", None) == 0
    duration = time.monotonic() - began
    expected = contents(tmp_path / "whole")
    kills = runs = 0
    while kills < KILLS:
        runs += 1
        out = tmp_path / f"{runs}"
        there: dict[Path, int] = {}
        ended = None
        while ended != 0:
            ended = start(out, random.uniform(0, duration) if kills < KILLS else None)
            kills += ended != 0
            now = finished_files(out)
            assert {path: now.get(path) for path in there} == there
            there = now
        # What is left of a batch is made as a smaller batch: the same but for rounding.
        assert most_different(contents(out), expected) <= 1


@linux
@pytest.mark.parametrize("make_job", [random_job, tar_job], ids=["folder", "tar"])
def test_workers_end_with_the_process_that_was_killed(
    tmp_path: Path, make_job: Callable[[Path], Job]
) -> None:
    """Each has 16 pairs to make, with which it would go on for seconds."""
    out = tmp_path / "killed"
    driver = multiprocessing.get_context("spawn").Process(
        target=run_job, args=(make_job(out), out, MakeSlow(2), 2)
    )
    driver.start()
    wait_until(lambda: any(out.rglob("images/*.png")), "the first image")
    kill_and_await_its_children(driver)
    there = {path: path.stat().st_mtime_ns for path in out.rglob("images/*.png")}
    assert 0 < len(there) < 16
    record = run_job(make_job(out), out)
    assert (record.there, record.pairs) == (len(there), 40)
    left = {path: path.stat().st_mtime_ns for path in there if path.exists()}  # not from tar files
    assert left == ({} if make_job is tar_job else there)
    run_job(make_job(tmp_path / "whole"), tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
