"""Weights and masks for synthesis, and what a run leaves."""

from __future__ import annotations

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from siamese_diffusion.common.hashes import file_hash
from siamese_diffusion.common.pair_files import PairFiles
from siamese_diffusion.models.metadata import SiameseMetadata
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import read_weights, write_weights
from siamese_diffusion.synthesis.engines.local import MakeModel, run_locally
from siamese_diffusion.synthesis.jobs import FolderJob, Job, TarJob
from siamese_diffusion.synthesis.masks import RandomMasks, ShapeSettings
from siamese_diffusion.synthesis.plan import Plan
from siamese_diffusion.synthesis.records import Record, claim
from siamese_diffusion.synthesis.run import synthesize
from siamese_diffusion.synthesis.settings import Shard
from siamese_diffusion.synthesis.shard import Masking

from support.seeded_weights import made_up_bundle
from support.stub_models import make_stub
from support.tiny_base import write_tiny_base

SIZE = 32  # pixels of masks


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base.safetensors and siamese.safetensors, a bundle that names its base."""
    folder = tmp_path_factory.mktemp("tiny weights")
    base = write_tiny_base(folder / "base.safetensors")
    write_bundle(folder / "siamese.safetensors", base)
    return folder


def write_bundle(path: Path, base: Path, classes: dict[str, str] | None = None) -> Path:
    metadata = SiameseMetadata(
        RECIPES["published"], (SIZE, SIZE), 1, file_hash(base), classes or {"255": "lesion"}
    )
    write_weights(path, made_up_bundle(read_weights(base).tensors), metadata.to_strings())
    return path


def synthesis_flags(weights: Path, masks: Path, out: Path, *more: str) -> list[str]:
    return [
        f"--bundle={weights / 'siamese.safetensors'}",
        f"--masks={masks}",
        f"--output_dir={out}",
        "--steps=2",
        *more,
    ]


def write_masks(folder: Path) -> Path:
    """Three masks, one of them in a subfolder, one of another size."""
    (folder / "sub").mkdir(parents=True)
    for number, (name, width) in enumerate((("m1", SIZE), ("m2", 48), ("sub/m10", SIZE)), 1):
        pixels = np.zeros((SIZE, width), np.uint8)
        pixels[4:20, 4 : 4 + 8 * number] = 255
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return write_masks(tmp_path / "masks")


def random_job(folder: Path, count: int = 40, batch_size: int = 4) -> FolderJob:
    """Pairs of `count` random masks."""
    return FolderJob(_random_plan(count), PairFiles(folder), Masking({}, None), batch_size)


def tar_job(folder: Path, count: int = 40) -> TarJob:
    """The same pairs in tar files of 16."""
    return TarJob(_random_plan(count), folder, Masking({}, None), 4, pairs_per_tar=16)


def _random_plan(count: int) -> Plan:
    source = RandomMasks(count, (SIZE, SIZE), ShapeSettings(), seed=0, prompt="a")
    return Plan(source, 1)


def run_job(
    job: Job, folder: Path, make_model: MakeModel = make_stub, processes: int = 1
) -> Record:
    claim(folder, {})
    engine = partial(run_locally, make_model=make_model, processes=processes)
    return synthesize(job, folder, {}, Shard(), engine)


def contents(folder: Path) -> dict[str, bytes]:
    """Every picture and the list of pairs, by path; hidden files too, of which none should be."""
    found = [path for kind in ("images", "masks") for path in (folder / kind).rglob("*")]
    found += [path for path in folder.iterdir() if path.suffix in (".jsonl", ".tar", ".tmp")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found if p.is_file()}


def unpacked(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same with the members of each archive in its place."""
    found = {name: content for name, content in files.items() if not name.endswith(".tar")}
    for name in files.keys() - found.keys():
        with tarfile.open(fileobj=io.BytesIO(files[name])) as archive:
            for member in archive.getmembers():
                content = archive.extractfile(member)
                assert content is not None
                found[f"{name}/{member.name}"] = content.read()
    return found


def most_different(first: dict[str, bytes], second: dict[str, bytes]) -> int:
    """Of all pixels of all pictures, in 255ths; names and all other files must be the same."""
    first, second = unpacked(first), unpacked(second)
    assert first.keys() == second.keys()
    found = 0
    for name in first:
        if name.endswith(".png"):
            pair = [np.asarray(Image.open(io.BytesIO(file[name])), int) for file in (first, second)]
            found = max(found, int(np.abs(pair[0] - pair[1]).max()))
        else:
            assert first[name] == second[name], name
    return found
