"""train_siamese.py as people run it: what it writes, and what it says to bad input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from siamese_diffusion.common.hashes import file_hash
from siamese_diffusion.models.kinds import CONTROL, DECODER, UNET, Kind
from siamese_diffusion.models.metadata import read_metadata
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import read_weights
from siamese_diffusion.tools.comfy_host import ComfyHost
from siamese_diffusion.training import merge_bundle
from siamese_diffusion.training.train_siamese import main
from support.paths import ROOT, TRAIN_SCRIPT
from support.processes import Finished, run
from support.seeded_weights import seeded
from support.small_runs import command, metrics

WORKFLOWS = ROOT / "workflows"


def run_script(*flags: str, cwd: Path) -> Finished:
    """The script as a user starts it, offline, from a folder that is not the checkout."""
    return run([sys.executable, TRAIN_SCRIPT, *flags], cwd=cwd, env={"HF_HUB_OFFLINE": "1"})


@pytest.fixture(scope="session")
def trained(nano: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of three steps with the published recipe."""
    folder = tmp_path_factory.mktemp("trained")
    result = run_script(*command(nano, pairs, folder / "out", "--max_train_steps=3"), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "out"


def test_three_steps_write_a_bundle(trained: Path, nano: Path) -> None:
    bundle = read_weights(trained / "siamese.safetensors")
    assert bundle.kind is Kind.BUNDLE
    metadata = read_metadata(bundle.metadata, "bundle")
    assert metadata is not None
    assert metadata.recipe == RECIPES["published"]
    assert (metadata.resolution, metadata.step) == ((64, 64), 3)
    assert metadata.base_hash == file_hash(nano)

    base = read_weights(nano).tensors
    assert set(bundle.decoder()) == {key for key in base if key.startswith(DECODER)}
    encoder = {key for key in base if key.startswith(UNET) and not key.startswith(DECODER)}
    assert {UNET + key for key in bundle.control()} >= encoder
    # Step 0 moves the decoder and the zero convolutions, step 1 the copied encoder and the last
    # hint convolution, step 2 the rest of the DHI: after three steps everything has learnt.
    for key, tensor in bundle.tensors.items():
        start = base.get(key.replace(CONTROL, UNET), torch.zeros_like(tensor))
        assert not torch.equal(tensor, start.float()), f"{key} did not learn"


def test_base_and_bundle_are_the_merged_checkpoint(
    trained: Path, nano: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "merged.safetensors"
    assert merge_bundle.main([str(nano), str(trained / "siamese.safetensors"), str(merged)]) == 0
    base = read_weights(nano).tensors
    bundle = read_weights(trained / "siamese.safetensors")
    found = read_weights(merged)
    assert found.kind is Kind.MERGED
    assert set(found.tensors) == set(base) | set(bundle.tensors)
    for key, tensor in found.tensors.items():
        assert torch.equal(tensor, bundle.tensors[key] if key in bundle.tensors else base[key])


def test_a_bundle_is_refused_by_another_base(
    trained: Path, nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    save_file({**read_weights(nano).tensors, "extra": seeded("extra", (2, 2))}, other)
    bundle, merged = trained / "siamese.safetensors", tmp_path / "merged.safetensors"
    assert merge_bundle.main([str(other), str(bundle), str(merged)]) == 2
    message = capsys.readouterr().err
    assert file_hash(nano) in message
    assert file_hash(other) in message
    assert not merged.exists()


def test_trained_weights_make_images_in_comfyui(
    trained: Path, nano: Path, pairs: Path, host: ComfyHost
) -> None:
    """The whole path: pairs, train_siamese.py, a real ComfyUI server, a PNG."""
    shutil.copy(nano, host.models / "checkpoints" / "e2e_base.safetensors")
    shutil.copy(trained / "siamese.safetensors", host.models / "controlnet" / "e2e.safetensors")
    mask = next((pairs.parent / "masks").iterdir())
    shutil.copy(mask, host.input / "e2e_mask.png")
    prompt = json.loads((WORKFLOWS / "api" / "1_mask_to_image.json").read_text())
    inputs = {node["class_type"]: node["inputs"] for node in prompt.values()}
    inputs["CheckpointLoaderSimple"]["ckpt_name"] = "e2e_base.safetensors"
    inputs["SiameseBundleLoader"]["bundle_name"] = "e2e.safetensors"
    inputs["LoadImageMask"]["image"] = "e2e_mask.png"
    inputs["SiameseSampler"]["steps"] = 4
    [picture] = host.images(host.run(prompt))
    with Image.open(picture) as image:
        assert image.size == (64, 64)
        assert image.getextrema() != ((0, 0), (0, 0), (0, 0))


def test_a_run_shows_what_it_did(trained: Path) -> None:
    lines = metrics(trained)
    assert [line["step"] for line in lines] == [1, 2, 3]
    # The image branch counts step / max_steps: nothing at step 0, so both branches agree exactly.
    assert lines[0]["loss_image"] == lines[0]["loss_mask"]
    assert lines[0]["loss_consistency"] == 0
    assert lines[1]["loss_consistency"] > 0
    for line in lines:
        terms = [value for name, value in line.items() if name.startswith("loss_")]
        assert line["loss"] == pytest.approx(sum(terms))
    with Image.open(trained / "losses.png") as curves:
        assert curves.width > 500
    assert json.loads((trained / "config.json").read_text())["max_train_steps"] == 3
    assert not [path for path in trained.rglob("*") if path.name.endswith(".tmp")]


def test_a_preview_shows_mask_image_sample_and_outline(trained: Path, pairs: Path) -> None:
    """Of the first and the fourth of six pairs."""
    with Image.open(trained / "sample" / "siamese-step00000003.png") as preview:
        assert preview.size == (4 * 64 + 3 * 4, 2 * 64 + 4)
        pixels = np.asarray(preview)
    entries = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    for row, entry in enumerate((entries[0], entries[3])):
        top = row * 68
        cells = [pixels[top : top + 64, left : left + 64] for left in range(0, 272, 68)]
        mask = np.asarray(Image.open(pairs.parent / entry["source"]).convert("L")) > 127
        assert np.array_equal(cells[0], np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
        image = Image.open(pairs.parent / entry["target"]).convert("RGB")
        assert np.array_equal(cells[1], np.asarray(image))
        assert cells[2].std() > 1
        # The lesion's outline is drawn over the sample, and nothing else.
        changed = (cells[3] != cells[2]).any(axis=2)
        assert changed.any()
        assert {tuple(pixel) for pixel in cells[3][changed]} == {(26, 255, 51)}
        inside = mask & ~changed
        assert np.array_equal(cells[3][inside], cells[2][inside])


def test_a_finished_run_is_not_overwritten(
    trained: Path, nano: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file_hash(trained / "siamese.safetensors")
    assert main(command(nano, pairs, trained, "--max_train_steps=3")) == 2
    assert "finished" in capsys.readouterr().err
    assert file_hash(trained / "siamese.safetensors") == before


def copy_pairs(pairs: Path, folder: Path) -> Path:
    shutil.copytree(pairs.parent, folder / "data")
    return folder / "data" / "prompt.jsonl"


def test_all_bad_pairs_are_reported_at_once(
    nano: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = copy_pairs(pairs, tmp_path)
    entries = [json.loads(line) for line in index.read_text().splitlines()]
    data = index.parent
    (data / entries[0]["target"]).unlink()
    (data / entries[1]["source"]).unlink()
    Image.new("L", (32, 48)).save(data / entries[2]["source"])
    (data / entries[3]["target"]).write_bytes(b"not a picture")
    truncated = (data / entries[4]["target"]).read_bytes()[:500]
    (data / entries[4]["target"]).write_bytes(truncated)

    out = tmp_path / "out"
    assert main(command(nano, index, out)) == 2
    message = capsys.readouterr().err
    assert "5 problems" in message
    assert f"line 1: image {data / entries[0]['target']}: no such file" in message
    assert f"line 2: mask {data / entries[1]['source']}: no such file" in message
    assert "32x48" in message and "64x64" in message
    assert f"{data / entries[3]['target']}: cannot be decoded" in message
    assert f"{data / entries[4]['target']}: cannot be decoded" in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{'source': 1}", "not JSON"),
        ('["mask.png", "image.png"]', 'expected {"source": mask'),
        ('{"source": "a.png", "target": "b.png"}', '"prompt" must be a string'),
    ],
)
def test_bad_lines_of_a_prompt_jsonl(
    line: str, expected: str, nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "prompt.jsonl"
    index.write_text(f"\n{line}\n", encoding="utf-8")
    out = tmp_path / "out"
    assert main(command(nano, index, out)) == 2
    message = capsys.readouterr().err
    assert "line 2: " in message
    assert expected in message
    assert not out.exists()


def bad_base(kind: str, folder: Path) -> Path:
    """A file that is no base model."""
    path = folder / "base.safetensors"
    weight = seeded("weight", (4, 4))
    keys = {
        "plain ControlNet": "control_model.input_hint_block.0.weight",
        "LoRA": "lora_unet_mid_block.lora_up.weight",
        "SDXL": "conditioner.embedders.0.weight",
    }
    if kind in keys:
        save_file({keys[kind]: weight}, path)
    elif kind == "truncated":
        save_file({"model.diffusion_model.input_blocks.0.0.weight": weight}, path)
        path.write_bytes(path.read_bytes()[:-8])
    elif kind == "pickle with code":
        path = path.with_suffix(".ckpt")
        torch.save({"state_dict": {"weight": weight}, "callback": Path}, path)
    elif kind == "text":
        path.write_text("404: not found", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "no such file"),
        ("text", "not a safetensors file"),
        ("truncated", "truncated"),
        ("pickle with code", "can run code"),
        ("plain ControlNet", "this is a plain ControlNet"),
        ("LoRA", "this is a LoRA"),
        ("SDXL", "this is an SDXL checkpoint"),
    ],
)
def test_files_that_are_no_base_model(
    kind: str, expected: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = bad_base(kind, tmp_path)
    out = tmp_path / "out"
    assert main(command(base, pairs, out)) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert str(base) in message
    assert expected in message
    assert "Traceback" not in message
    assert not out.exists()
