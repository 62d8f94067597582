"""The command line on small weights, from flags to pairs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers
from PIL import Image
from siamese_diffusion.common.items import hash_number
from siamese_diffusion.common.pictures import read_image, read_mask, read_palette_mask
from siamese_diffusion.common.prompt_jsonl import Entry, read_prompt_jsonl, write_prompt_jsonl
from siamese_diffusion.models.weights import merge, read_weights, write_weights
from siamese_diffusion.synthesis import run as synthesis_run
from siamese_diffusion.synthesis.command_line import parse_args
from siamese_diffusion.synthesis.masks import RandomMasks, ShapeSettings
from siamese_diffusion.synthesis.model import SiameseModel
from siamese_diffusion.synthesis.plan import Plan
from siamese_diffusion.synthesis.records import claim
from siamese_diffusion.synthesis.run import prepare, run_values
from siamese_diffusion.synthesis.settings import SAMPLERS, Settings, Shard
from siamese_diffusion.synthesis.shard import Wanted
from siamese_diffusion.synthesis.synthesize import main
from siamese_diffusion.synthesis.weights import find_weights
from support.folder_locks import hold
from support.paths import ROOT
from support.processes import wait_until
from support.synthesis_runs import (
    SIZE,
    contents,
    most_different,
    synthesis_flags,
    write_bundle,
    write_masks,
)
from torch import Tensor

pytest_plugins = ["support.synthesis_runs"]
pytestmark = pytest.mark.slow  # whole runs

SCRIPT = ROOT / "synthesis" / "synthesize.py"


@pytest.fixture(scope="module")
def one_by_one(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two pairs of each mask of `masks`, made one by one in one process."""
    folder = tmp_path_factory.mktemp("one by one")
    masks = write_masks(folder / "masks")
    out = folder / "out"
    assert (
        main(synthesis_flags(tiny_weights, masks, out, "--images_per_mask=2", "--prompt=a polyp"))
        == 0
    )
    return contents(out)


def test_a_folder_of_masks_becomes_pairs(one_by_one: dict[str, bytes], masks: Path) -> None:
    names = [f"{stem}_{n}" for stem in ("m1", "m2", "sub/m10") for n in (1, 2)]
    pictures = {f"{kind}/{name}.png" for kind in ("images", "masks") for name in names}
    assert one_by_one.keys() == {*pictures, "prompt.jsonl"}
    lines = [json.loads(line) for line in one_by_one["prompt.jsonl"].decode().splitlines()]
    assert lines[-1] == {
        "source": "masks/sub/m10_2.png", "target": "images/sub/m10_2.png", "prompt": "a polyp",
    }  # fmt: skip
    assert [line["target"] for line in lines] == [f"images/{name}.png" for name in names]
    images = {one_by_one[f"images/{name}.png"] for name in names}
    assert len(images) == len(names)
    (masks / "again.png").write_bytes(one_by_one["masks/m2_1.png"])
    assert np.array_equal(read_mask(masks / "again.png"), read_mask(masks / "m2.png"))


@pytest.mark.parametrize(
    "more", [["--batch_size=4"], ["--processes=2", "--batch_size=2"]], ids=["batches", "processes"]
)
def test_a_pair_does_not_depend_on_how_it_is_made(
    tiny_weights: Path, masks: Path, tmp_path: Path, one_by_one: dict[str, bytes], more: list[str]
) -> None:
    common = ["--images_per_mask=2", "--prompt=a polyp"]
    assert main(synthesis_flags(tiny_weights, masks, tmp_path / "out", *common, *more)) == 0
    assert most_different(contents(tmp_path / "out"), one_by_one) <= 1


def test_shards_make_the_whole(
    tiny_weights: Path, masks: Path, tmp_path: Path, one_by_one: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    for number in (2, 0, 1):
        assert not (out / "prompt.jsonl").exists()
        more = ["--images_per_mask=2", "--prompt=a polyp", f"--shard={number}/3"]
        assert main(synthesis_flags(tiny_weights, masks, out, *more)) == 0
    assert most_different(contents(out), one_by_one) == 0
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert (manifest["shards"], manifest["pairs"], manifest["made"]) == (3, 6, 6)
    assert manifest["recipe"]["image_hint"] == "image"
    assert {len(value) for value in manifest["sha256"].values()} == {64}
    parts = [(out / "shards" / f"0000{n}-of-00003.jsonl").read_text("utf-8") for n in range(3)]
    lines = sorted("".join(parts).splitlines())
    assert lines == sorted((out / "prompt.jsonl").read_text("utf-8").splitlines())


def test_a_merged_checkpoint_makes_the_same(
    tiny_weights: Path, masks: Path, tmp_path: Path, one_by_one: dict[str, bytes]
) -> None:
    bundle = read_weights(tiny_weights / "siamese.safetensors")
    base = read_weights(tiny_weights / "base.safetensors")
    merged = tmp_path / "merged.safetensors"
    write_weights(merged, merge(base.tensors, bundle), bundle.metadata)
    arguments = synthesis_flags(tiny_weights, masks, tmp_path / "out", "--images_per_mask=2")
    arguments[0] = f"--checkpoint={merged}"
    assert main([*arguments, "--prompt=a polyp"]) == 0
    assert most_different(contents(tmp_path / "out"), one_by_one) == 0


def test_killed_and_started_again_it_goes_on(
    tiny_weights: Path, masks: Path, tmp_path: Path, one_by_one: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    arguments = synthesis_flags(tiny_weights, masks, out, "--images_per_mask=2", "--prompt=a polyp")
    running = subprocess.Popen([sys.executable, SCRIPT, *arguments], stderr=subprocess.DEVNULL)
    wait_until(lambda: any(out.glob("images/*.png")), "the first image")
    running.send_signal(signal.SIGKILL)
    running.wait()
    there = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert there
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert most_different(contents(out), one_by_one) == 0


def test_other_settings_in_the_same_folder_are_refused_by_name(
    tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    request = parse_args(synthesis_flags(tiny_weights, masks, out))
    claim(out, run_values(request, *prepare(request)))  # as a run that was stopped at once
    for more, named in (
        (["--steps=3"], "steps 2, now 3"),
        (["--cfg=2", "--seed=1"], "seed 0, now 1; cfg 9.0, now 2.0"),
        (["--prompt=other"], "prompt None, now 'other'"),
        (["--resolution=64"], "resolution None, now '64,64'"),
        (["--tar"], "tar False, now True"),
    ):
        assert main(synthesis_flags(tiny_weights, masks, out, *more)) == 2
        assert named in capsys.readouterr().err
    assert not (out / "images").exists()


def test_a_second_run_of_the_same_part_is_refused(
    tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = synthesis_flags(tiny_weights, masks, out, "--tar")
    with hold(out, f".{Shard(0, 2).name}.lock") as holder:
        assert main([*command, "--shard=0/2"]) == 2
        said = capsys.readouterr().err
        assert f"--output_dir {out}: another synthesis is running in it" in said
        assert f"process {holder.pid} on" in said
        assert [*out.iterdir()] == [out / f".{Shard(0, 2).name}.lock"]
        assert main([*command, "--shard=1/2"]) == 0
    assert main([*command, "--shard=0/2"]) == 0
    assert (out / "manifest.json").is_file() and not [*out.glob(".*.lock")]


def test_a_bad_mask_is_reported_and_stops_nothing_else(
    tiny_weights: Path, masks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (masks / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(masks / "odd.png")
    out = tmp_path / "out"
    assert main(synthesis_flags(tiny_weights, masks, out)) == 1
    assert "broken.png: cannot be decoded as an image" in caplog.text
    assert "mask odd is 50x50 pixels; images are made in multiples of 8" in caplog.text
    stems = [pair.stem for pair in read_prompt_jsonl(out / "prompt.jsonl").pairs]
    assert stems == ["m1_1", "m2_1", "m10_1"]
    for name in ("broken", "odd"):
        shutil.copy(masks / "m1.png", masks / f"{name}.png")
    assert main(synthesis_flags(tiny_weights, masks, out)) == 0
    assert len(read_prompt_jsonl(out / "prompt.jsonl").pairs) == 5


def test_check_lists_what_is_missing_or_damaged(
    tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(synthesis_flags(tiny_weights, masks, out)) == 0
    assert main(synthesis_flags(tiny_weights, masks, out, "--check")) == 0
    assert capsys.readouterr().out == ""
    content = (out / "images" / "m1_1.png").read_bytes()
    (out / "images" / "m1_1.png").write_bytes(content[:-20])
    (out / "masks" / "m2_1.png").unlink()
    assert main(synthesis_flags(tiny_weights, masks, out, "--check")) == 1
    damaged, missing = capsys.readouterr().out.splitlines()
    assert damaged.startswith(f"damaged: {out / 'images' / 'm1_1.png'}")
    assert missing == f"missing: {out / 'masks' / 'm2_1.png'}"


def test_check_lists_pairs_of_other_masks_with_the_same_names(
    tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings name no pixels, so that a run on the other folder is not refused."""
    out, others = tmp_path / "out", write_masks(tmp_path / "others")
    assert main(synthesis_flags(tiny_weights, masks, out)) == 0
    assert main(synthesis_flags(tiny_weights, others, out, "--check")) == 0
    changed = read_mask(others / "m2.png")
    changed[0, 0] = True
    Image.fromarray(changed).save(others / "m2.png")
    (others / "m1.png").write_bytes(b"no picture")  # of which nothing is known
    assert main(synthesis_flags(tiny_weights, others, out)) == 0
    assert main(synthesis_flags(tiny_weights, others, out, "--check")) == 1
    found = capsys.readouterr().out
    assert found == f"damaged: {out / 'masks' / 'm2_1.png'} is another mask than m2 is now\n"


def test_the_captions_of_a_list_count(tiny_weights: Path, masks: Path, tmp_path: Path) -> None:
    listed = masks.parent / "prompt.jsonl"
    entries = [
        Entry("masks/m1.png", "images/m1.png", "a polyp"),
        Entry("masks/sub/m10.png", "images/m10.png", "größer"),
    ]
    write_prompt_jsonl(listed, entries)
    assert main(synthesis_flags(tiny_weights, listed, tmp_path / "out")) == 0
    pairs = read_prompt_jsonl(tmp_path / "out" / "prompt.jsonl").pairs
    assert [(pair.stem, pair.caption) for pair in pairs] == [
        ("m1_1", "a polyp"), ("m10_1", "größer"),
    ]  # fmt: skip
    assert pairs[1].image.parent.name == "sub"


def test_random_masks_have_the_size_of_the_training(tiny_weights: Path, tmp_path: Path) -> None:
    more = ["--lesions=2", "--smallest=5", "--largest=10"]
    for name, count in (("few", 2), ("more", 4)):
        arguments = synthesis_flags(
            tiny_weights, Path(), tmp_path / name, f"--random_masks={count}", *more
        )
        del arguments[1]
        assert main(arguments) == 0
    few, more_of_them = contents(tmp_path / "few"), contents(tmp_path / "more")
    assert len(more_of_them) == 9
    assert all(more_of_them[name] == few[name] for name in few if name.endswith(".png"))
    mask = read_mask(tmp_path / "few" / "masks" / "random_1_1.png")
    assert mask.shape == (SIZE, SIZE)
    assert 0.02 < mask.mean() < 0.25


def test_augmented_masks_are_changed_copies(
    tiny_weights: Path, masks: Path, tmp_path: Path
) -> None:
    assert main(synthesis_flags(tiny_weights, masks, tmp_path / "out", "--augment_masks=2")) == 0
    found = sorted(tmp_path.glob("out/masks/m1_augmented_*.png"))
    assert [path.name for path in found] == ["m1_augmented_1_1.png", "m1_augmented_2_1.png"]
    first, second = map(read_mask, found)
    original = read_mask(masks / "m1.png")
    assert not np.array_equal(first, second)
    assert 0.5 < first.sum() / original.sum() < 2


def test_palette_masks_are_sampled_and_saved_in_colour(
    tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    classes = {"#000000": "background", "#ff0000": "polyp"}
    shutil.copy(tiny_weights / "base.safetensors", tmp_path)
    write_bundle(tmp_path / "siamese.safetensors", tmp_path / "base.safetensors", classes)
    masks = tmp_path / "masks"
    masks.mkdir()
    colours = np.zeros((SIZE, SIZE, 3), np.uint8)
    colours[8:20, 8:20, 0] = 255
    Image.fromarray(colours).save(masks / "red.png")
    Image.fromarray(colours[..., ::-1].copy()).save(masks / "blue.png")
    assert main(synthesis_flags(tmp_path, masks, tmp_path / "out")) == 1
    assert "blue.png: has colours that these weights were not trained on: #0000ff" in caplog.text
    saved = read_palette_mask(tmp_path / "out" / "masks" / "red_1.png")
    assert np.array_equal(saved, colours)


def test_folders_by_hash_from_so_many_pairs_on_stay_as_they_were_begun(
    tiny_weights: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = synthesis_flags(tiny_weights, masks, tmp_path / "few")
    assert main(few) == 0
    monkeypatch.setattr(synthesis_run, "PREFIXES_FROM", 3)
    assert main([*few, "--images_per_mask=2"]) == 0
    assert (tmp_path / "few" / "images" / "m1_2.png").exists()
    assert main(synthesis_flags(tiny_weights, masks, tmp_path / "many")) == 0
    for pair in read_prompt_jsonl(tmp_path / "many" / "prompt.jsonl").pairs:
        (prefix,) = pair.image.relative_to(tmp_path / "many" / "images").parts[:1]
        name = pair.image.relative_to(tmp_path / "many" / "images" / prefix).with_suffix("")
        assert prefix == f"{hash_number(name.as_posix()) % 4096:03x}"


def test_images_keep_a_random_share_of_their_contrast(
    tiny_weights: Path, masks: Path, tmp_path: Path, one_by_one: dict[str, bytes]
) -> None:
    """Measured on the same images as they are without it."""
    out, least = tmp_path / "out", 0.25
    more = ["--images_per_mask=2", "--prompt=a polyp", f"--least_contrast={least}"]
    assert main(synthesis_flags(tiny_weights, masks, out, *more, "--batch_size=4")) == 0
    shares = []
    for pair in read_prompt_jsonl(out / "prompt.jsonl").pairs:
        whole = tmp_path / "whole.png"
        whole.write_bytes(one_by_one[pair.image.relative_to(out).as_posix()])
        before, after = (read_image(path).astype(float) for path in (whole, pair.image))
        middle = np.median(before[~read_mask(pair.mask)], axis=0)
        far = before - middle
        shares.append((far * (after - middle)).sum() / (far**2).sum())
        assert np.abs(middle + shares[-1] * far - after).max() <= 2
    assert least <= min(shares) < max(shares) <= 1
    assert len({round(share, 2) for share in shares}) > 3


def test_bf16_changes_the_image_a_little(
    tiny_weights: Path, masks: Path, tmp_path: Path, one_by_one: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    more = ["--images_per_mask=2", "--prompt=a polyp", "--mixed_precision=bf16"]
    assert main(synthesis_flags(tiny_weights, masks, out, *more)) == 0
    assert 0 < most_different(contents(out), one_by_one) <= 16


def test_compiled_networks_make_the_same(
    tiny_weights: Path, masks: Path, tmp_path: Path, one_by_one: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Traced as ever, but run as traced: code for a CPU takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    more = ["--images_per_mask=2", "--prompt=a polyp", "--torch_compile"]
    assert main(synthesis_flags(tiny_weights, masks, tmp_path / "out", *more)) == 0
    assert graphs["unique_graphs"] >= 3
    assert most_different(contents(tmp_path / "out"), one_by_one) <= 1


def test_the_samplers_are_diffusers_own() -> None:
    """All that diffusers calls interchangeable, but two."""
    known = {member.name.removesuffix("Scheduler") for member in KarrasDiffusionSchedulers}
    assert {*SAMPLERS[1:]} == known - {"DPMSolverSDE", "EDMEuler"}


@pytest.fixture(scope="module")
def model(tiny_weights: Path) -> SiameseModel:
    weights = find_weights(None, tiny_weights / "siamese.safetensors", None, False, None)
    return SiameseModel(weights, Settings(steps=3), "cpu", compiled=False)


def wanted(count: int) -> list[Wanted]:
    """Images of random masks."""
    masks = RandomMasks(count, (SIZE, SIZE), ShapeSettings(), 0, "a polyp")
    items = [*Plan(masks, 1).items()]
    return [Wanted(item, item.mask.read({})) for item in items]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_of_any_sampler_does_not_depend_on_its_batch(
    model: SiameseModel, sampler: str
) -> None:
    model.settings = Settings(steps=3, sampler=sampler)
    together = np.stack(model.images(wanted(3))).astype(int)
    alone = np.stack([model.images([one])[0] for one in wanted(3)]).astype(int)
    assert np.abs(together - alone).max() <= 2
    assert np.abs(together[0] - together[1]).max() > 2


@pytest.mark.parametrize(
    ("sampler", "schedule"), [("EulerDiscrete", "karras"), ("DPMSolverMultistep", "exponential")]
)
def test_a_schedule_changes_the_image(model: SiameseModel, sampler: str, schedule: str) -> None:
    found = []
    for chosen in ("default", schedule):
        model.settings = Settings(steps=3, sampler=sampler, schedule=chosen)
        found.append(model.images(wanted(1))[0].astype(int))
    assert np.abs(found[0] - found[1]).max() > 2


def test_a_mask_is_encoded_once_however_many_images_it_has(
    model: SiameseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = model.nets.hint_features

    def count(hint: Tensor) -> Tensor:
        encoded.append(len(hint))
        return encode(hint)

    monkeypatch.setattr(model.nets, "hint_features", count)
    model.settings = Settings(steps=2)
    masks = RandomMasks(2, (SIZE, SIZE), ShapeSettings(), 0, "a polyp")
    items = [Wanted(item, item.mask.read({})) for item in Plan(masks, 5).items()]
    model._last_hint = None
    for batch in (items[:4], items[4:8], items[8:]):
        model.images(batch)
    assert sum(encoded) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--sampler=PNDM", "--schedule=karras"], "the sampler PNDM does not have it"),
        (["--schedule=karras"], "ddim_published has its own"),
        (["--masks=nowhere"], "--masks nowhere: no such folder or file"),
        (["--checkpoint=other.safetensors"], "Give the weights in one way"),
        (["--pretrained_model_name_or_path=nothing.ckpt"], "nothing.ckpt: no such file"),
    ],
)
def test_wrong_flags_are_one_line(
    tiny_weights: Path,
    masks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    assert main(synthesis_flags(tiny_weights, masks, tmp_path / "out", *change)) == 2
    found = capsys.readouterr().err
    assert message in found
    assert found.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_wrong_base_is_refused(
    tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    tensors = read_weights(tiny_weights / "base.safetensors").tensors
    write_weights(other, {key: value * 2 for key, value in tensors.items()}, {})
    shutil.copy(tiny_weights / "siamese.safetensors", tmp_path)
    arguments = synthesis_flags(tmp_path, masks, tmp_path / "out")
    assert main([*arguments, f"--pretrained_model_name_or_path={other}"]) == 2
    assert "was trained on a base model with SHA-256" in capsys.readouterr().err
    assert main(arguments) == 2  # nor is it found beside the bundle
    assert "which is neither beside it" in capsys.readouterr().err
