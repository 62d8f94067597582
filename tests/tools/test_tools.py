"""Pairs, their colour rule, the autoencoder, the nano checkpoint, contact sheets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from siamese_diffusion.models.kinds import Kind
from siamese_diffusion.models.weights import read_weights
from siamese_diffusion.tools import pairs
from siamese_diffusion.tools.picture_sheet import contact_sheet

COUNT = 24


def made(size: int, seed: int = 0) -> list[tuple[pairs.Bytes, pairs.Bools]]:
    return [pairs.make_pair(size, np.random.default_rng((seed, i))) for i in range(COUNT)]


def test_pairs_depend_on_seed_and_number_only(tmp_path: Path) -> None:
    few = pairs.write_pairs(tmp_path / "few", 2, 64, seed=5).parent
    many = pairs.write_pairs(tmp_path / "many", 3, 64, seed=5).parent
    other = pairs.write_pairs(tmp_path / "other", 2, 64, seed=6).parent
    for name in ("images/00001.png", "masks/00001.png"):
        assert (few / name).read_bytes() == (many / name).read_bytes()
        assert (few / name).read_bytes() != (other / name).read_bytes()


def test_prompt_jsonl_lists_rgb_images_and_binary_masks(tmp_path: Path) -> None:
    index = pairs.write_pairs(tmp_path, 3, 72, seed=0)
    lines = [json.loads(line) for line in index.read_text("utf-8").splitlines()]
    assert len(lines) == 3
    for line in lines:
        mask, image = Image.open(tmp_path / line["source"]), Image.open(tmp_path / line["target"])
        assert (mask.mode, image.mode, mask.size, image.size) == ("L", "RGB", (72, 72), (72, 72))
        assert set(np.unique(np.asarray(mask))) == {0, 255}
        assert 0.03 < np.asarray(mask).astype(bool).mean() < 0.2


@pytest.mark.parametrize("size", [64, 128])
def test_colour_rule_finds_the_lesion_and_nothing_else(size: int) -> None:
    masks = [mask for _, mask in made(size)]
    found = [pairs.find_lesion(image) for image, _ in made(size)]
    assert pairs.mean_iou(masks, found) > 0.95
    assert pairs.shuffled_iou(masks, found) < 0.2


def test_iou() -> None:
    left, empty = np.eye(4, dtype=bool), np.zeros((4, 4), dtype=bool)
    assert pairs.iou(left, left) == 1
    assert pairs.iou(empty, empty) == 1
    assert pairs.iou(left, empty) == 0
    assert pairs.iou(left, left & (np.arange(4) < 2)) == 0.5
    with pytest.raises(ValueError, match=r"\(4, 4\) and \(2, 2\)"):
        pairs.iou(left, empty[:2, :2])


def test_pairs_command_refuses_bad_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pairs.main([str(tmp_path / "out"), "--count", "0"]) == 2
    assert "count is 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128])
def test_autoencoder_keeps_lesions_and_gives_unit_latents(size: int) -> None:
    from siamese_diffusion.tools.train_autoencoder import evaluate, load_autoencoder

    figures = evaluate(load_autoencoder(), size, count=8)
    assert figures["iou"] > 0.85
    assert 0.7 < figures["latent_std"] < 1.2
    assert figures["latent_max"] < 10


@pytest.mark.slow
def test_autoencoder_keeps_nuclei_where_they_are_and_grey_what_is_grey() -> None:
    from siamese_diffusion.tools.nuclei_crops import read_crops
    from siamese_diffusion.tools.train_autoencoder import evaluate_nuclei, load_autoencoder

    figures = evaluate_nuclei(load_autoencoder(), read_crops("test")[::40])
    assert figures["iou"] > figures["iou_original"] - 0.03
    assert 0.8 < figures["latent_std"] < 1.2
    assert figures["colour"] < 2 / 255


@pytest.mark.slow
def test_nano_checkpoint_is_a_stable_diffusion_1(tmp_path: Path) -> None:
    from siamese_diffusion.tools.nano import SHAPE, build_nano
    from siamese_diffusion.training.hosts.single_file import load_autoencoder
    from siamese_diffusion.training.method.ldm_keys import read_shape

    file = read_weights(build_nano(tmp_path / "nano.safetensors"))
    assert file.kind is Kind.SD1
    unet = {k.removeprefix("model.diffusion_model."): v for k, v in file.tensors.items()}
    assert read_shape(unet, "nano") == SHAPE
    vae = {key: value.float() for key, value in file.tensors.items()}
    latents, _ = load_autoencoder(vae, "nano").encode(torch.rand(1, 3, 64, 64))
    assert latents.shape == (1, 4, 8, 8)


def test_nano_refuses_steps_without_pairs(tmp_path: Path) -> None:
    from siamese_diffusion.tools.base_training import BaseTraining
    from siamese_diffusion.tools.nano import build_nano

    with pytest.raises(ValueError, match="need each other"):
        build_nano(tmp_path / "nano.safetensors", training=BaseTraining(1))


def test_contact_sheet_holds_every_triplet() -> None:
    images, masks = zip(*made(64)[:5], strict=True)
    sheet = contact_sheet({"mask": masks, "image": images, "found": masks}, across=4)
    assert sheet.width > sheet.height > 2 * 96
