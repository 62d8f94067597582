"""Whole datasets from a folder of masks, made by one node of a real server."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from siamese_diffusion.benchmarks.measure import TensorMemory
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.tools.comfy_host import ComfyHost, HostError
from support.processes import wait_until
from support.workflow_prompts import (
    CAPTION,
    bundle_prompt,
    dataset_prompt,
    files,
    image,
    pixels,
    write_mask,
)

pytest_plugins = ["support.comfy_inside", "support.served_models"]


def shown_text(history: dict[str, Any], node_id: str) -> str:
    return history["outputs"][node_id]["text"][0]


def test_a_folder_becomes_a_dataset(served: ComfyHost, folder: str) -> None:
    history = served.run(dataset_prompt(folder, "made", images_per_mask=2, subfolders=True))
    root = served.output / "made"
    assert "8 pairs" in shown_text(history, "make")
    assert "8 new, 0 were there already" in shown_text(history, "make")
    assert len(served.images(history)) == 4
    pairs = read_prompt_jsonl(root / "prompt.jsonl").pairs
    assert [f"{pair.image.parent.name}/{pair.stem}" for pair in pairs] == [
        *(f"images/{stem}_{index}" for stem in ("m1", "m2", "m10") for index in (1, 2)),
        *(f"sub/m3_{index}" for index in (1, 2)),
    ]
    assert {pair.caption for pair in pairs} == {CAPTION}
    contents = {pair.image.read_bytes() for pair in pairs}
    assert len(contents) == len(pairs)
    for pair in pairs:
        original = served.input / folder / pair.mask.relative_to(root / "masks")
        source = original.with_name(original.name.rsplit("_", 1)[0] + ".png")
        assert np.array_equal(pixels(pair.mask), pixels(source))


def test_an_image_depends_on_its_mask_and_number_alone(served: ComfyHost, folder: str) -> None:
    served.run(dataset_prompt(folder, "all", images_per_mask=2))
    served.run(dataset_prompt(folder, "one", start=2))
    first, again = (served.output / name / "images" / "m10_1.png" for name in ("all", "one"))
    assert np.array_equal(pixels(first), pixels(again))
    assert files(served.output / "one") == ["images/m10_1.png", "masks/m10_1.png", "prompt.jsonl"]


def test_it_goes_on_where_it_was_interrupted(served: ComfyHost, folder: str) -> None:
    root = served.output / "interrupted"
    running = served.queue(dataset_prompt(folder, "interrupted", steps=40))
    wait_until((root / "images" / "m1_1.png").exists, "the first image")
    served.interrupt()
    with pytest.raises(HostError, match="interrupted at SiameseSynthesizeDataset"):
        served.wait(running)
    done = {path: path.stat().st_mtime_ns for path in root.rglob("*_1.png")}
    assert 2 <= len(done) < 6
    (root / "prompt.jsonl").unlink()  # as if it had been killed before the line was written
    history = served.run(dataset_prompt(folder, "interrupted"))
    assert f"{3 - len(done) // 2} new" in shown_text(history, "make")
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(read_prompt_jsonl(root / "prompt.jsonl").pairs) == 3
    shutil.rmtree(root)
    assert "3 new" in shown_text(served.run(dataset_prompt(folder, "interrupted")), "make")


def test_an_image_whose_mask_is_missing_is_not_overwritten(served: ComfyHost, folder: str) -> None:
    root = served.output / "unmasked"
    served.run(dataset_prompt(folder, root.name, count=1))
    image, mask = (root / kind / "m1_1.png" for kind in ("images", "masks"))
    mask.unlink()
    image.write_bytes(b"precious")
    with pytest.raises(HostError, match=r"m1_1.png: its mask .*masks/m1_1.png is missing"):
        served.run(dataset_prompt(folder, root.name, count=1))
    assert image.read_bytes() == b"precious"


def test_a_mask_alone_is_an_interrupted_pair(served: ComfyHost, folder: str) -> None:
    served.run(dataset_prompt(folder, "half", count=1))
    image = served.output / "half" / "images" / "m1_1.png"
    image.unlink()
    assert "1 new" in shown_text(served.run(dataset_prompt(folder, "half", count=1)), "make")
    assert image.is_file()


@pytest.mark.parametrize("name", ["folder", "output_folder"])
@pytest.mark.parametrize("path", ["../elsewhere", "/tmp/elsewhere", ""])
def test_a_dataset_stays_in_the_input_and_output_folders(
    served: ComfyHost, folder: str, name: str, path: str
) -> None:
    prompt = dataset_prompt(folder, "inside")
    prompt["make"]["inputs"][name] = path
    with pytest.raises(HostError, match=r"SiameseSynthesizeDataset.*expected a name or a relative"):
        served.run(prompt)
    assert not (served.output.parent / "elsewhere").exists()


def test_a_mask_that_does_not_fit_is_named(served: ComfyHost, folder: str) -> None:
    write_mask(served.input / folder / "m3.png", (slice(0, 1), slice(0, 1)), width=50)
    with pytest.raises(HostError, match=r"m3.png: The mask is 50x64 pixels.*Set width 48"):
        served.run(dataset_prompt(folder, "odd"))
    assert "images/m2_1.png" in files(served.output / "odd")


def test_the_sampler_makes_the_same_image_from_the_same_seed(
    served: ComfyHost, folder: str
) -> None:
    """One path through sampling: only the seed is the dataset's own."""
    from hashlib import sha256

    served.run(dataset_prompt(folder, "same", count=1))
    seed = int.from_bytes(sha256(b"0/1/m1").digest()[:8], "big")
    prompt = bundle_prompt(seed=seed)
    shutil.copy(served.input / folder / "m1.png", served.input / "m1.png")
    prompt["3"]["inputs"]["image"] = "m1.png"
    found = pixels(served.output / "same" / "images" / "m1_1.png").astype(int)
    assert np.abs(found - image(served, prompt)).max() <= 1  # SaveImage cuts off, we round


@pytest.mark.slow
@pytest.mark.usefixtures("inference")
def test_memory_does_not_grow_with_the_number_of_masks(
    pack: SimpleNamespace, model: Any, control: Any, tmp_path: Path
) -> None:
    for number in range(8):
        write_mask(tmp_path / f"{number}.png", (slice(0, 16), slice(0, 16)), width=32, height=32)
    prompts = [[[torch.ones(1, 77, 768), {}]] for _ in range(2)]
    work = pack.synthesize.Work(
        pairs=pack.pair_folder.PairFolder(tmp_path / "pairs"),
        sources=pack.sampling.Sources(model, *prompts, control),
        vae=SimpleNamespace(decode=lambda latents: latents.mean() + torch.zeros(1, 32, 32, 3)),
        size=(0, 0),
        settings=pack.sampling.Settings(1, 1.0, "ddim", "ddim_published", seed=0),
        prompt="",
    )
    planned = pack.synthesize.plan({path.stem: path for path in tmp_path.glob("*.png")}, 1)
    bytes_alive = []
    with TensorMemory(model.model) as memory:
        for _ in work.run(planned):
            gc.collect()
            bytes_alive.append(memory.live)
    assert len(bytes_alive) == 8
    assert len({*bytes_alive[1:]}) == 1  # the first also finds the ControlNet's weights
