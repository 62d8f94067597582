"""The demo's own tools: pairs, colour rule, autoencoder, nano checkpoint, figures."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from siamese_diffusion.models.weights import Kind, read_weights
from siamese_diffusion.tools import demo, pairs
from siamese_diffusion.tools.comfy_host import ROOT
from siamese_diffusion.tools.picture_sheet import contact_sheet

COUNT = 24
WORKFLOWS = ROOT / "workflows"


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
    assert demo.mean_iou(masks, found) > 0.95
    assert demo.shuffled_iou(masks, found) < 0.2


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


@pytest.mark.parametrize("size", [64, 128])
def test_autoencoder_keeps_lesions_and_gives_unit_latents(size: int) -> None:
    from siamese_diffusion.tools.train_autoencoder import evaluate, load_autoencoder

    figures = evaluate(load_autoencoder(), size, count=8)
    assert figures["iou"] > 0.85
    assert 0.7 < figures["latent_std"] < 1.2
    assert figures["latent_max"] < 10


def test_autoencoder_keeps_nuclei_where_they_are_and_grey_what_is_grey() -> None:
    from siamese_diffusion.tools.nuclei_crops import read_crops
    from siamese_diffusion.tools.train_autoencoder import evaluate_nuclei, load_autoencoder

    figures = evaluate_nuclei(load_autoencoder(), read_crops("test")[::40])
    assert figures["iou"] > figures["iou_original"] - 0.03
    assert 0.8 < figures["latent_std"] < 1.2
    assert figures["colour"] < 2 / 255


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


def test_demo_patches_the_workflow_by_node_class() -> None:
    prompt = {"7": {"class_type": "SiameseSampler", "inputs": {"seed": 0, "model": ["1", 0]}}}
    patched = demo.patch_prompt(prompt, {"SiameseSampler": {"seed": 3}})
    assert patched["7"]["inputs"] == {"seed": 3, "model": ["1", 0]}
    with pytest.raises(demo.DemoError, match="no node SaveImage"):
        demo.patch_prompt(prompt, {"SaveImage": {}})
    with pytest.raises(demo.DemoError, match=r"no input \['steps'\]"):
        demo.patch_prompt(prompt, {"SiameseSampler": {"steps": 3}})


def test_demo_changes_nothing_of_the_shipped_workflow_but_files_and_settings(
    tmp_path: Path,
) -> None:
    shipped = json.loads((WORKFLOWS / "api" / "1_mask_to_image.json").read_text("utf-8"))
    prompt = demo.Demo(tmp_path, demo.Settings(sampling_steps=7, cfg=3.5)).prompt(5)
    changed = {
        (node["class_type"], name): value
        for key, node in prompt.items()
        for name, value in node["inputs"].items()
        if value != shipped[key]["inputs"][name]
    }
    assert changed == {
        ("LoadImageMask", "image"): "demo_mask_05.png",
        ("SiameseSampler", "seed"): 5,
        ("SiameseSampler", "steps"): 7,
        ("SiameseSampler", "cfg"): 3.5,
        ("SaveImage", "filename_prefix"): "demo/siamese",
    }
    inputs = {key: node["inputs"].keys() for key, node in prompt.items()}
    assert inputs == {key: node["inputs"].keys() for key, node in shipped.items()}


def test_demo_puts_its_files_under_the_names_that_the_template_has(tmp_path: Path) -> None:
    made = demo.Demo(tmp_path, demo.Settings(size=64, train_pairs=1, test_masks=2))
    made.make_pairs()
    for _ in range(2):  # a second demo finds those of the first
        made.place_files()
    made.base.write_text("base")
    made.bundle.write_text("bundle")
    graph = json.loads((WORKFLOWS / "1_mask_to_image.json").read_text("utf-8"))
    values = {node["type"]: node.get("widgets_values") for node in graph["nodes"]}
    checkpoint = made.host.models / "checkpoints" / values["CheckpointLoaderSimple"][0]
    bundle = made.host.models / "controlnet" / values["SiameseBundleLoader"][0]
    mask = made.host.input / values["LoadImageMask"][0]
    assert (checkpoint.read_text(), bundle.read_text()) == ("base", "bundle")
    first = min((made.test / "masks").iterdir())
    assert mask.read_bytes() == first.read_bytes()


def test_last_line_of_the_demo_serves_its_folder_and_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "the demo")
    monkeypatch.setattr(demo.Demo, "run", lambda _: True)
    assert demo.main([]) == 0
    *command, folder, flag, workflow = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command == [sys.executable, "-m", "siamese_diffusion.tools.comfy_host", "--base"]
    assert Path(folder) == tmp_path / "the demo" / "comfyui"
    assert (flag, (WORKFLOWS / f"{workflow}.json").is_file()) == ("--workflow", True)


def test_demo_keeps_its_folder_until_settings_change(tmp_path: Path) -> None:
    folder, settings = tmp_path / "out", demo.Settings()
    demo.prepare_folder(folder, settings, fresh=False)
    (folder / "base").touch()
    demo.prepare_folder(folder, settings, fresh=False)
    assert (folder / "base").exists()
    demo.prepare_folder(folder, demo.Settings(steps=1), fresh=False)
    assert not (folder / "base").exists()
    (tmp_path / "mine").touch()
    with pytest.raises(demo.DemoError, match="move it away"):
        demo.prepare_folder(tmp_path, settings, fresh=True)


def test_contact_sheet_holds_every_triplet() -> None:
    images, masks = zip(*made(64)[:5], strict=True)
    sheet = contact_sheet({"mask": masks, "image": images, "found": masks}, across=4)
    assert sheet.width > sheet.height > 2 * 96
