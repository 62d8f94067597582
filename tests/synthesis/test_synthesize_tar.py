"""WebDataset shards, and folders by the hash of names."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from siamese_diffusion.common.pair_check import check_pairs
from siamese_diffusion.common.pair_files import PairFiles
from siamese_diffusion.common.pictures import read_image, read_mask
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.synthesis import jobs
from siamese_diffusion.synthesis.check import problems
from siamese_diffusion.synthesis.errors import SynthesisError
from siamese_diffusion.synthesis.jobs import FolderJob, TarJob
from siamese_diffusion.synthesis.masks import MaskFiles
from siamese_diffusion.synthesis.plan import Plan
from siamese_diffusion.synthesis.shard import Masking
from support.stub_models import MakeKilled
from support.synthesis_runs import contents, random_job, run_job, tar_job
from support.tiny_runs import train

pytest_plugins = ["support.synthesis_runs"]

PAIRS = 40


def test_the_shards_hold_what_the_folders_would(tmp_path: Path) -> None:
    assert run_job(tar_job(tmp_path / "tar"), tmp_path / "tar").made == PAIRS
    run_job(random_job(tmp_path / "folders", PAIRS), tmp_path / "folders")
    found = contents(tmp_path / "tar")
    assert sorted(found) == [*(f"pairs-0000{n}.tar" for n in range(3)), "prompt.jsonl"]
    packed = read_prompt_jsonl(tmp_path / "tar" / "prompt.jsonl").pairs
    loose = read_prompt_jsonl(tmp_path / "folders" / "prompt.jsonl").pairs
    assert len(packed) == len(loose) == PAIRS
    for one, other in zip(packed, loose, strict=True):
        assert np.array_equal(read_image(one.image), read_image(other.image))
        assert np.array_equal(read_mask(one.mask), read_mask(other.mask))
        assert one.caption == other.caption
    assert not (tmp_path / "tar" / ".staging" / "pairs-00000.tar").exists()
    assert [*problems(tar_job(tmp_path / "tar"), tmp_path / "tar", False, None)] == []


def test_a_sample_is_what_webdataset_calls_one(tmp_path: Path) -> None:
    """Members of one sample follow each other and agree up to the first dot of their names."""
    run_job(tar_job(tmp_path), tmp_path)
    with tarfile.open(tmp_path / "pairs-00000.tar") as tar:
        names = tar.getnames()
        caption = tar.extractfile("random_1_1.txt")
        assert caption is not None
        assert caption.read() == b"a"
    keys = [name.partition(".")[0] for name in names]
    assert [keys[i] for i in range(0, len(keys), 3)] == [f"random_{n}_1" for n in range(1, 17)]
    assert [name.partition(".")[2] for name in names] == ["image.png", "mask.png", "txt"] * 16


def test_names_with_dots_keep_their_samples_apart() -> None:
    assert jobs.sample_key("a.b%_1") == "a%2Eb%25_1"


@pytest.mark.slow
def test_killed_and_started_again_the_shards_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    marker = tmp_path / "marker"
    with pytest.raises(SynthesisError, match="ended early"):
        run_job(tar_job(folder), folder, MakeKilled(marker), processes=2)
    assert len([*folder.glob("*.tar")]) < 3
    assert run_job(tar_job(folder), folder).pairs == PAIRS
    run_job(tar_job(tmp_path / "whole"), tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_bad_mask_is_left_out_and_told_of_again(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    plan = Plan(MaskFiles(["broken"], [str(broken)], ["a"]), 2)
    job = TarJob(plan, tmp_path / "out", Masking({}, None), 4, pairs_per_tar=16)
    for _ in range(2):
        record = run_job(job, tmp_path / "out")
        assert [*record.failed] == ["broken_1", "broken_2"]
        assert "cannot be decoded" in record.failed["broken_1"]
    assert (tmp_path / "out" / "prompt.jsonl").read_text("utf-8") == ""


def test_folders_by_hash_hold_the_same(tmp_path: Path) -> None:
    job = random_job(tmp_path / "flat", PAIRS)
    run_job(job, tmp_path / "flat")
    files = PairFiles(tmp_path / "deep", by_prefix=True)
    run_job(FolderJob(job.plan, files, job.masking, 4), tmp_path / "deep")
    flat, deep = (
        read_prompt_jsonl(tmp_path / name / "prompt.jsonl").pairs for name in ("flat", "deep")
    )
    assert [pair.stem for pair in flat] == [pair.stem for pair in deep]
    for one, other in zip(flat, deep, strict=True):
        assert one.image.read_bytes() == other.image.read_bytes()
        assert len(other.image.parent.name) == 3
        assert other.image.parent.name == other.mask.parent.name


@pytest.mark.slow
def test_the_trainer_reads_the_shards(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(tar_job(tmp_path / "tar"), tmp_path / "tar")
    listing = read_prompt_jsonl(tmp_path / "tar" / "prompt.jsonl")
    assert len(check_pairs("tar", listing, "binary")) == PAIRS
    base = tiny_weights / "base.safetensors"
    train(base, tmp_path / "tar" / "prompt.jsonl", tmp_path / "run", "--resolution=32")
