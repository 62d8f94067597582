"""From checked pairs to batches: sizes, flips, caches, the validation split."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from siamese_diffusion.training.data import pair_pictures
from siamese_diffusion.training.data.batch_order import BatchOrder, Share
from siamese_diffusion.training.data.batches import TrainingData
from siamese_diffusion.training.data.cache import DiskCache
from siamese_diffusion.training.data.dataset import Dataset
from siamese_diffusion.training.data.framing import Framing, bucket_sizes, cover_box
from siamese_diffusion.training.data.summary import DatasetSummary
from siamese_diffusion.training.data.text_embeddings import TextEmbeddings
from siamese_diffusion.training.errors import CacheError, ConfigError, FileError
from siamese_diffusion.training.method.objective import as_floats
from support.small_datasets import (
    CPU,
    SQUARE,
    Base,
    config,
    lesion,
    load,
    photo,
    prepared,
    save,
    two_folders,
    write_list,
)

# Sizes


def test_buckets_have_about_the_area_of_the_resolution() -> None:
    sizes = bucket_sizes((384, 384), 256, 1024, 64)
    assert {(384, 384), (256, 576), (576, 256), (320, 448)} <= set(sizes)
    assert all(width % 64 == height % 64 == 0 for width, height in sizes)
    assert all(0.85 * 384**2 < width * height <= 384**2 for width, height in sizes)
    framing = Framing((384, 384), sizes)
    assert framing.training_size((1000, 1000)) == (384, 384)
    assert framing.training_size((900, 400)) == (576, 256)
    assert framing.training_size((400, 900)) == (256, 576)
    assert framing.training_size((1920, 1280)) == (448, 320)
    assert Framing((384, 384)).training_size((900, 400)) == (384, 384)


def test_a_crop_is_centred_and_covers() -> None:
    assert cover_box((100, 50), (10, 10)) == (25, 0, 75, 50)
    assert cover_box((30, 50), (30, 30)) == (0, 10, 30, 40)
    for width in range(101, 160):
        left, top, right, bottom = cover_box((width, 100), (37, 53))
        assert 0 <= left < right <= width and 0 <= top < bottom <= 100


def test_buckets_are_not_mixed_and_crop_image_and_mask_alike(tmp_path: Path) -> None:
    sizes = [(128, 128), (96, 192), (192, 96), (64, 64), (97, 190), (201, 97)]
    flags = {"enable_bucket": True, "min_bucket_reso": 32, "bucket_reso_steps": 16}
    settings = config(write_list(tmp_path, sizes), resolution="64", **flags)
    data = prepared(load(tmp_path, resolution="64", **flags), Framing.of(settings))
    assert data.sizes == [(64, 64), (48, 80), (80, 48), (64, 64), (48, 80), (80, 48)]
    order = BatchOrder(data.sizes, 2, seed=0)
    for step in range(6):
        indices = order.batch(step)
        width, height = data.sizes[indices[0]]
        batch = data.batch(indices, seed=0, step=step, caption_dropout=0).to(CPU)
        assert batch.image.shape == (2, 3, height, width)
        assert batch.mask.shape == (2, 1, height, width)
        assert batch.latents.shape == (2, 4, height // 8, width // 8)
        shown = batch.image[:, :1] > 0.5  # the red channel shows the mask
        assert (shown == batch.mask.bool()).float().mean() > 0.98
    assert len(data.examples(4)) == 2


def test_without_buckets_images_are_stretched(tmp_path: Path) -> None:
    data = prepared(load(write_list(tmp_path, [(64, 32)])))
    mask, image = data.masks_and_images([0])
    assert image.shape == (1, 3, 32, 32)
    assert mask.mean() == pytest.approx((lesion(64, 32) > 0).mean())
    assert mask.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"bucket_reso_steps": 20}, "--bucket_reso_steps is 20"),
        ({"resolution": "128"}, "--resolution 128 is not between --min_bucket_reso 256"),
        ({"max_bucket_reso": 320}, "--max_bucket_reso 320"),
    ],
)
def test_impossible_buckets(flags: dict[str, object], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        config(tmp_path, enable_bucket=True, **flags)


# Flips and rotations


def test_augmentations_are_those_of_image_and_mask_alike_with_latents_of_their_own(
    tmp_path: Path,
) -> None:
    dataset = load(write_list(tmp_path, [(32, 32)] * 4))
    base = Base()
    data = base.prepare(TrainingData(dataset, replace(SQUARE, flip=True, rotate=True)))
    assert base.autoencoder.encoded == 4 * 8
    seen = set()
    for step in range(12):
        batch = data.batch([0, 1, 2, 3], seed=1, step=step, caption_dropout=0).to(CPU)
        assert torch.equal(batch.image[:, :1], batch.mask)  # the red channel shows the mask
        mean, _ = base.autoencoder.encode(batch.image)
        torch.testing.assert_close(batch.latents, mean)
        seen |= {mask.numpy().tobytes() for mask in batch.mask}
    assert len(seen) == 8
    again = data.batch([0, 1, 2, 3], seed=1, step=11, caption_dropout=0).to(CPU)
    assert torch.equal(again.image, batch.image) and torch.equal(again.latents, batch.latents)


def test_images_that_are_not_square_keep_their_size(tmp_path: Path) -> None:
    framing = Framing((32, 16), rotate=True)
    assert framing.augmentations((32, 16)) == [(False, 0), (False, 2)]
    data = prepared(load(write_list(tmp_path, [(32, 16)] * 2)), framing)
    shown = [data.batch([0, 1], 0, step, 0).image for step in range(8)]
    assert all(image.shape == (2, 3, 16, 32) for image in shown)
    assert not all(torch.equal(image, shown[0]) for image in shown)


def test_images_are_not_augmented_by_default(tmp_path: Path) -> None:
    folder = write_list(tmp_path, [(32, 32)] * 2)
    data = prepared(load(folder), Framing.of(config(folder, resolution="32")))
    _, image = data.masks_and_images([0, 1])
    for step in range(6):
        assert torch.equal(data.batch([0, 1], 0, step, 0).to(CPU).image, image)


# What a step is trained on


def test_a_batch_is_drawn_by_the_rule_that_every_run_so_far_has_followed(tmp_path: Path) -> None:
    """Written out again: what changes one of these numbers changes every run."""
    folder, base, seed, step = write_list(tmp_path, [(32, 32)] * 3), Base(), 7, 5
    data = base.prepare(TrainingData(load(folder), replace(SQUARE, flip=True)))
    batch = data.batch([2, 0, 1], seed, step, 0.5).to(CPU)

    def random(purpose: str) -> torch.Generator:
        digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    drawn, variant = random("batch"), random("variant")
    flips = [bool(torch.randint(2, (), generator=variant)) for _ in range(3)]
    dropped = (torch.rand(3, generator=drawn) < 0.5).tolist()
    assert {*flips} == {*dropped} == {True, False}
    images = [np.asarray(Image.open(folder / f"images/{n}.png")) for n in (2, 0, 1)]
    images = [i[:, ::-1] if flip else i for i, flip in zip(images, flips, strict=True)]
    image = torch.from_numpy(np.stack(images).astype(np.float32) / np.float32(255))
    image = image.permute(0, 3, 1, 2)
    assert torch.equal(batch.image, image)
    assert torch.equal(batch.mask, (image[:, :1] > 0.5).float())
    mean, deviation = base.autoencoder.encode(image)
    noise = torch.randn(mean.shape, generator=drawn)
    torch.testing.assert_close(batch.latents, mean + deviation * noise)
    assert torch.equal(batch.noise, torch.randn(mean.shape, generator=drawn))
    assert torch.equal(batch.timesteps, torch.randint(1000, (3,), generator=drawn))
    captions = ["" if d else f"a polyp {n}" for d, n in zip(dropped, (2, 0, 1), strict=True)]
    assert torch.equal(batch.text, base.text_encoder.encode(captions))


def test_rows_of_a_large_batch_do_not_depend_on_who_trains_them(tmp_path: Path) -> None:
    data, seed, step = prepared(load(write_list(tmp_path, [(32, 32)] * 4)), SQUARE), 7, 5
    indices = [0, 1, 2, 3] * 20
    whole = data.batch(indices, seed, step, 0.5).to(CPU)
    share = Share([3, 47, 48, 79], len(indices))
    own = data.batch(indices, seed, step, 0.5, share).to(CPU)
    for name in ("latents", "noise", "timesteps", "text"):
        assert torch.equal(vars(own)[name], vars(whole)[name][share.rows]), name
    assert torch.equal(data.timesteps(indices, seed, step), whole.timesteps)
    # All different, and normal: 80 * 64 numbers, so the mean is within 5 / sqrt(5120).
    assert len({tuple(row.flatten().tolist()) for row in whole.noise}) == 80
    assert abs(float(whole.noise[48:].mean())) < 0.1
    assert abs(float(whole.noise[48:].std()) - 1) < 0.1
    few = data.batch(indices[:48], seed, step, 0.5).to(CPU)
    assert torch.equal(whole.noise[:48], few.noise)
    assert torch.equal(whole.timesteps[:48], few.timesteps)


def test_a_process_opens_the_files_of_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load(write_list(tmp_path, [(32, 32)] * 8))
    whole = prepared(dataset, replace(SQUARE, flip=True, rotate=True))
    order = BatchOrder(whole.sizes, 8, seed=0)
    indices = order.batch(3)
    expected = whole.batch(indices, 0, 3, 0.5)
    opened: list[Path] = []
    for name in ("read_image", "read_mask"):
        read = getattr(pair_pictures, name)

        def counting(path: Path, read: Callable[[Path], np.ndarray] = read) -> np.ndarray:
            opened.append(path)
            return read(path)

        monkeypatch.setattr(pair_pictures, name, counting)
    for first in range(0, 8, 2):
        process = prepared(dataset, replace(SQUARE, flip=True, rotate=True))
        opened.clear()
        process.pictures._decoded.clear()
        own = process.batch(indices, 0, 3, 0.5, Share(slice(first, first + 2), 8))
        pairs = [dataset.pairs[index] for index in indices[first : first + 2]]
        assert sorted(opened) == sorted([p.image for p in pairs] + [p.mask for p in pairs])
        for name, values in vars(expected.rows(first, first + 2)).items():
            assert values is None or torch.equal(vars(own)[name], values), name


def test_pictures_become_floats_on_the_device_as_before(tmp_path: Path) -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256).astype(np.float32) / np.float32(255)
    assert torch.equal(as_floats(levels), torch.from_numpy(expected))
    batch = prepared(load(write_list(tmp_path, [(32, 32)]))).batch([0], 0, 0, 0)
    assert (batch.image.dtype, batch.mask.dtype) == (torch.uint8, torch.bool)


# Caches


def disk(dataset: Dataset, folder: Path, base: Base, framing: Framing = SQUARE) -> TrainingData:
    base.autoencoder.encoded = base.text_encoder.encoded = 0
    texts = TextEmbeddings(folder, kept=True)
    return base.prepare(TrainingData(dataset, framing, DiskCache(folder), texts=texts))


LATENTS: dict[str, dict[str, torch.Tensor]] = {
    "nothing": {},
    "one": {"0": torch.zeros(4, 4, 4)},
    "three": {name: torch.zeros(4, 4, 4) for name in "012"},
    "other names": {name: torch.zeros(4, 4, 4) for name in "ab"},
    "another size": {name: torch.zeros(4, 4, 8) for name in "01"},
    "of one size, another": {"0": torch.zeros(4, 4, 4), "1": torch.zeros(1, 4, 4)},
    "whole numbers": {name: torch.zeros(4, 4, 4, dtype=torch.int32) for name in "01"},
    "half precision": {name: torch.zeros(4, 4, 4).half() for name in "01"},
    "NaN": {name: torch.full((4, 4, 4), float("nan")) for name in "01"},
}


@pytest.mark.parametrize("content", LATENTS.values(), ids=LATENTS)
def test_latents_of_another_kind_on_disk_are_named(
    content: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder, cache, base = write_list(tmp_path, [(32, 32)] * 2), tmp_path / "cache", Base()
    data = disk(load(folder), cache, base)
    path = next(cache.rglob("*.safetensors"))
    path.unlink()
    save_file(content, path)
    with pytest.raises(CacheError, match=r"\.safetensors is damaged .*Delete it") as error:
        data.batch([0, 1], 0, 0, 0)
    assert str(path) in str(error.value)


def test_a_pipe_among_cached_latents_is_replaced(tmp_path: Path) -> None:
    folder, cache, base = write_list(tmp_path, [(32, 32)] * 2), tmp_path / "cache", Base()
    disk(load(folder), cache, base)
    path = next(cache.rglob("*.safetensors"))
    path.unlink()
    os.mkfifo(path)
    disk(load(folder), cache, base).batch([0, 1], 0, 0, 0)
    assert path.is_file() and base.autoencoder.encoded == 1


@pytest.mark.parametrize("role", ["images", "masks"])
def test_a_picture_of_another_size_than_was_checked_is_named(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced so that its file's size and time are the same, or by another process just now."""
    folder = write_list(tmp_path, [(32, 32)] * 2)
    data = TrainingData(load(folder), SQUARE)
    monkeypatch.setattr(pair_pictures, "check_unchanged", lambda *_: None)
    save(folder / role / "1.png", photo(0, 48, 32) if role == "images" else lesion(48, 32))
    with pytest.raises(FileError, match=r"1\.png: is 48x32, and was 32x32 when it was checked"):
        data.masks_and_images([0, 1])


def test_a_disk_cache_notices_what_changes(tmp_path: Path) -> None:
    folder, cache, base = write_list(tmp_path, [(32, 32)] * 3), tmp_path / "cache", Base()
    first = disk(load(folder), cache, base).batch([0, 1, 2], 0, 0, 0)
    assert (base.autoencoder.encoded, base.text_encoder.encoded) == (3, 4)
    again = disk(load(folder), cache, base).batch([0, 1, 2], 0, 0, 0)
    assert (base.autoencoder.encoded, base.text_encoder.encoded) == (0, 0)
    assert torch.equal(first.latents, again.latents) and torch.equal(first.text, again.text)
    assert torch.equal(first.image, again.image)

    # Same name, size and number of bytes on disk: only the content tells.
    save(folder / "images/1.png", photo(99))
    edited = disk(load(folder), cache, base).batch([0, 1, 2], 0, 0, 0)
    assert base.autoencoder.encoded == 1
    assert [torch.equal(a, b) for a, b in zip(first.latents, edited.latents, strict=True)] == [
        True, False, True,
    ]  # fmt: skip
    mean, _ = base.autoencoder.encode(edited.to(CPU).image)
    torch.testing.assert_close(edited.latents, mean)

    other = Base(seed=1)
    disk(load(folder), cache, other)
    assert (other.autoencoder.encoded, other.text_encoder.encoded) == (3, 4)
    disk(load(folder), cache, base, Framing((16, 16)))
    assert base.autoencoder.encoded == 3
    disk(load(folder), cache, base, replace(SQUARE, flip=True))
    assert base.autoencoder.encoded == 3
    assert not list(cache.rglob("*.tmp"))


def test_a_damaged_cache_file_is_named(tmp_path: Path) -> None:
    folder, cache = write_list(tmp_path, [(32, 32)]), tmp_path / "cache"
    data = disk(load(folder), cache, Base())
    for path in cache.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    with pytest.raises(CacheError, match=r"safetensors is damaged.*Delete it"):
        data.batch([0], 0, 0, 0)
    (tmp_path / "a file").touch()
    with pytest.raises(CacheError, match="cannot write"):
        disk(load(folder), tmp_path / "a file", Base())


def test_a_repeated_image_is_encoded_once(tmp_path: Path) -> None:
    index = write_list(tmp_path, [(32, 32)]) / "prompt.jsonl"
    line = index.read_text(encoding="utf-8")
    index.write_text("\n".join([line] * 3), encoding="utf-8")
    base = Base()
    base.prepare(TrainingData(load(tmp_path), SQUARE))
    assert base.autoencoder.encoded == 1


def test_dropped_captions_are_the_empty_one(tmp_path: Path) -> None:
    data = prepared(load(write_list(tmp_path, [(32, 32)] * 2)))
    assert torch.equal(data.batch([0, 1], 0, 0, 1.0).text, data.texts.load(["", ""]))
    assert torch.equal(
        data.batch([0, 1], 0, 0, 0.0).text, data.texts.load(["a polyp 0", "a polyp 1"])
    )


# Validation


def test_the_validation_split_keeps_stems_together(tmp_path: Path) -> None:
    for part in ("a", "b"):
        for number in range(10):
            save(tmp_path / f"images/{part}/tile{number}.png", photo(number))
            save(tmp_path / f"masks/{part}/tile{number}.png", lesion())
    dataset = load(tmp_path, **two_folders(tmp_path))
    training, validation = dataset.split(0.3, seed=1)
    assert (len(training.pairs), len(validation.pairs)) == (14, 6)
    assert not {p.stem for p in training.pairs} & {p.stem for p in validation.pairs}
    assert dataset.split(0.3, seed=1) == (training, validation)
    assert dataset.split(0.3, seed=2) != (training, validation)
    assert dataset.split(0.0, seed=1) == (dataset, replace(dataset, pairs=()))
    with pytest.raises(ConfigError, match="keeps 10 of 10 groups"):
        dataset.split(0.99, seed=1)


def test_validation_batches_are_the_same_at_every_call(tmp_path: Path) -> None:
    sizes = [(32, 32), (32, 64), (32, 32), (32, 32), (32, 64)]
    framing = Framing((32, 32), ((32, 32), (32, 64)))
    data = prepared(load(write_list(tmp_path, sizes)), framing)
    batches = list(data.validation_batches(2, seed=3))
    assert [tuple(b.image.shape[-2:]) for b in batches] == [(32, 32), (32, 32), (64, 32)]
    assert torch.cat([b.timesteps for b in batches]).tolist() == [100, 300, 500, 700, 900]
    for first, second in zip(batches, data.validation_batches(2, seed=3), strict=True):
        assert torch.equal(first.noise, second.noise) and torch.equal(first.image, second.image)
        assert torch.equal(first.text, second.text) and torch.equal(first.latents, second.latents)


# Summary


def test_the_summary_of_a_dataset(tmp_path: Path) -> None:
    folder = write_list(tmp_path, [(64, 64), (64, 64), (192, 64)])
    save(folder / "masks/1.png", lesion(64, 64) * 0)
    index = folder / "prompt.jsonl"
    lines = index.read_text(encoding="utf-8").splitlines()
    entry = {**json.loads(lines[0]), "prompt": ""}
    index.write_text("\n".join([*lines, json.dumps(entry)]), encoding="utf-8")
    framing = Framing((64, 64), bucket_sizes((64, 64), 32, 128, 32))
    text = DatasetSummary.of(load(folder), framing).render()
    assert text.splitlines() == [
        "pairs             4",
        "image sizes       64x64 to 192x64, 2 different; most common 64x64 (3)",
        "trained at        64x64 (3)",
        "                  96x32 (1)",
        "mask coverage     0.0% to 4.7%, median 4.7%",
        "empty masks       1",
        "classes           255: lesion",
        "captions          4 distinct; empty: 1",
    ]


def test_images_that_are_not_enlarged_are_cropped_in_the_middle() -> None:
    framing = Framing((64, 64), no_upscale=16)
    image = photo(0, 40, 54)
    mask = image[..., 0] > 127
    assert framing.training_size((40, 54)) == (32, 48)
    cropped, cropped_mask = framing.resize(image, mask)
    assert (cropped == image[3:51, 4:36]).all()
    assert (cropped_mask == mask[3:51, 4:36]).all()
    assert framing.training_size((640, 480)) == (64, 48)
    with pytest.raises(ConfigError, match="an image of 15x400 would be cropped to nothing"):
        framing.training_size((15, 400))
