"""The function behind every engine, with a model that makes images at once."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from siamese_diffusion.common.mask_files import stretched
from siamese_diffusion.common.pictures import read_image, read_mask
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.common.size_batches import SizeBatches
from siamese_diffusion.synthesis.engines.local import run_locally
from siamese_diffusion.synthesis.errors import SynthesisError
from siamese_diffusion.synthesis.masks import MaskFiles
from siamese_diffusion.synthesis.plan import Item, Plan
from siamese_diffusion.synthesis.run import synthesize
from siamese_diffusion.synthesis.settings import Shard
from siamese_diffusion.synthesis.shard import Masking, Outcome, Wanted
from support.stub_models import MakeKilled, Stub, make_stub
from support.synthesis_runs import contents, random_job, run_job

NO_PROCESS = 1 << 22  # more than the number of any


def test_every_pair_is_made_once(tmp_path: Path) -> None:
    record = run_job(random_job(tmp_path), tmp_path)
    assert (record.made, record.there, record.failed) == (40, 0, {})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    record = run_job(random_job(tmp_path), tmp_path)
    assert (record.made, record.there) == (0, 40)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == before
    pairs = read_prompt_jsonl(tmp_path / "prompt.jsonl").pairs
    assert [pair.stem for pair in pairs] == [f"random_{n}_1" for n in range(1, 41)]
    for pair in pairs[:3]:  # the stub draws the mask in the image
        background = read_image(pair.image)[0, 0]
        assert np.array_equal((read_image(pair.image) != background).all(-1), read_mask(pair.mask))


def test_a_lost_file_is_made_again_and_is_the_same(tmp_path: Path) -> None:
    run_job(random_job(tmp_path), tmp_path)
    before = contents(tmp_path)
    (tmp_path / "images" / "random_3_1.png").unlink()
    (tmp_path / "masks" / "random_7_1.png").unlink()
    assert run_job(random_job(tmp_path), tmp_path).made == 2
    assert contents(tmp_path) == before


@dataclass
class Small(Stub):
    """Has memory for so many images only."""

    most: int
    sizes: list[int] = field(default_factory=list)

    def images(self, batch: Sequence[Wanted]) -> list[np.ndarray]:
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise torch.cuda.OutOfMemoryError("stub")
        return super().images(batch)


def test_where_memory_is_short_batches_are_halved_from_then_on(tmp_path: Path) -> None:
    model = Small(most=3)
    job = random_job(tmp_path, count=32, batch_size=8)
    assert run_job(job, tmp_path, lambda _device: model).made == 32
    assert model.sizes[:3] == [8, 4, 2]
    assert set(model.sizes[3:]) == {2}


def test_no_memory_for_one_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match=r"out of memory for one image of 32x32 pixels"):
        run_job(random_job(tmp_path), tmp_path, lambda _device: Small(most=0))


class NotFinite(Stub):
    """Fails at one image of each batch that holds it."""

    def images(self, batch: Sequence[Wanted]) -> list[np.ndarray]:
        if any(one.item.name == "random_6_1" for one in batch):
            raise FloatingPointError
        return super().images(batch)


def test_an_image_that_is_not_finite_fails_alone(tmp_path: Path) -> None:
    record = run_job(random_job(tmp_path), tmp_path, lambda _device: NotFinite())
    assert record.made == 39
    assert "not finite" in record.failed["random_6_1"]
    assert len(read_prompt_jsonl(tmp_path / "prompt.jsonl").pairs) == 39
    assert not (tmp_path / "masks" / "random_6_1.png").exists()


def test_a_full_disk_ends_the_run_and_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tenth file finds no room: the system says so when it is written out."""
    from siamese_diffusion.common import files

    count = 0

    def full(path: Path) -> None:
        nonlocal count
        count += 1
        if count == 20:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(files, "sync", full)
        with pytest.raises(OSError, match="No space left"):
            run_job(random_job(tmp_path), tmp_path)
    found = [*tmp_path.rglob("*.png")]
    assert found
    assert all(read_image(path).shape == (32, 32, 3) for path in found)
    assert not list(tmp_path.rglob(".*.tmp"))
    run_job(random_job(tmp_path), tmp_path)
    run_job(random_job(tmp_path / "whole"), tmp_path / "whole")
    assert contents(tmp_path) == contents(tmp_path / "whole")


def test_what_another_process_is_writing_is_not_swept(tmp_path: Path) -> None:
    """Of the same command given twice; and of shards that run once more."""
    job, engine = random_job(tmp_path), partial(run_locally, make_model=make_stub, processes=1)
    run_job(job, tmp_path)
    names = {
        process: tmp_path / f"images/.x.png.{process}.tmp" for process in (os.getpid(), NO_PROCESS)
    }
    for path in names.values():
        path.touch()
    for number in (0, 1, 0):
        synthesize(job, tmp_path, {}, Shard(number, 2), engine)
        assert all(path.exists() for path in names.values())
    run_job(job, tmp_path)
    assert [process for process, path in names.items() if path.exists()] == [os.getpid()]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir(parents=True)
    left = tmp_path / f"images/.random_1_1.png.{NO_PROCESS}.tmp"
    left.write_bytes(b"half")
    run_job(random_job(tmp_path), tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("size", [(64, 48), (24, 16), (40, 72)])
def test_masks_are_stretched_as_comfyui_and_training_do(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((33, 50)) > 0.5
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), (size[1], size[0]), mode="nearest-exact"
    )
    assert np.array_equal(stretched(mask, size), expected[0, 0].numpy() > 0)


def test_an_image_larger_than_any_may_be_is_not_sampled(tmp_path: Path) -> None:
    """By a mask's own size; with --resolution it is stretched."""
    Image.fromarray(np.zeros((8, 4104), np.uint8)).save(tmp_path / "wide.png")
    item = Plan(MaskFiles(["wide"], [str(tmp_path / "wide.png")], ["a"]), 1).item(0)
    with pytest.raises(
        ValueError, match=r"mask wide is 4104x8 pixels; .*at most 4096 .*resolution"
    ):
        Masking({}, None).read(item)
    assert Masking({}, (64, 8)).read(item).mask.shape == (8, 64)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_make_the_same(tmp_path: Path, processes: int) -> None:
    run_job(random_job(tmp_path / "one"), tmp_path / "one")
    several = tmp_path / "several"
    assert run_job(random_job(several), several, processes=processes).made == 40
    assert contents(several) == contents(tmp_path / "one")


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_which_then_goes_on(tmp_path: Path) -> None:
    job, marker = random_job(tmp_path), tmp_path / "killed"
    tmp_path.mkdir(exist_ok=True)
    with pytest.raises(SynthesisError, match=r"a process ended early \(exit code -9"):
        run_job(job, tmp_path, MakeKilled(marker, after="images/*.png"), processes=2)
    there = len([*tmp_path.rglob("images/*.png")])
    assert 0 < there < 40
    record = run_job(job, tmp_path, MakeKilled(marker), processes=2)
    assert record.pairs == 40
    assert record.there >= there
    marker.unlink()
    run_job(random_job(tmp_path / "whole"), tmp_path / "whole")
    assert contents(tmp_path) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_what_is_in_memory_does_not_grow_with_the_number_of_pairs(tmp_path: Path) -> None:
    """Counted: items, what became of them, and what waits for a thread; now and then."""
    job = random_job(tmp_path, count=600)
    alive = []
    for number, _ in enumerate(job.make(range(600), Stub())):
        if number % 100 == 50:
            kinds = (Item, Outcome, Wanted, Future)
            alive.append(sum(isinstance(one, kinds) for one in gc.get_objects()))
    assert len(alive) == 6
    assert max(alive) < 100  # of 3 * 600


def test_sizes_that_come_in_turns_are_put_together() -> None:
    batches = SizeBatches[int](3)
    found = [batch for n in range(8) for batch in batches.add(n % 2, n)]
    assert [*found, *batches.rest()] == [[0, 2, 4], [1, 3, 5], [6], [7]]


def test_of_many_sizes_the_oldest_do_not_wait_for_ever() -> None:
    batches = SizeBatches[int](3)
    found = [batch for n in range(9) for batch in batches.add(n, n)]
    assert found == [[0], [1], [2]]
