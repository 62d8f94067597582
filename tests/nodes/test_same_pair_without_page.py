"""The node and siamese-synthesize make the same pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.synthesis.synthesize import main
from siamese_diffusion.tools.comfy_host import ComfyHost
from support.workflow_prompts import (
    CAPTION,
    MERGED,
    Prompt,
    dataset_prompt,
    files,
    pixels,
    write_mask,
)

pytest_plugins = ["support.comfy_inside", "support.served_models"]

BEHIND = (100, 84), (72, 120)  # width and height of two backgrounds, not all multiples of 8


@pytest.fixture
def mixed(served: ComfyHost, folder: str) -> str:
    """A folder with masks of two sizes."""
    write_mask(served.input / folder / "m4.png", (slice(0, 24), slice(16, 40)), width=48)
    return folder


@pytest.fixture
def backgrounds(served: ComfyHost, tmp_path: Path) -> str:
    """Name of a new folder in the input folder, with two backgrounds of different sizes."""
    folder = served.input / f"behind {tmp_path.name}"
    folder.mkdir()
    for number, (width, height) in enumerate(BEHIND):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder.name


def run_script(served: ComfyHost, prompt: Prompt, out: Path, **more: object) -> None:
    """What the prompt's node makes, by siamese-synthesize."""
    texts = [
        node["inputs"]["text"] for node in prompt.values() if node["class_type"] == "CLIPTextEncode"
    ]
    made = prompt["make"]["inputs"]
    flags = {
        **{name: made[name] for name in ("images_per_mask", "steps", "cfg", "seed")},
        "checkpoint": served.models / "checkpoints" / MERGED,
        "masks": served.input / made["folder"],
        "prompt": next(text for text in texts if text),
        "output_dir": out,
        "batch_size": 4,
        **more,
    }
    assert main([f"--{name}={value}" for name, value in flags.items()]) == 0


def assert_same(page: Path, script: Path, count: int) -> None:
    pictures = [name for name in files(page) if name.endswith(".png")]
    assert pictures == [name for name in files(script) if name.endswith(".png")]
    assert len(pictures) == count
    for name in pictures:
        difference = np.abs(pixels(page / name).astype(int) - pixels(script / name))
        assert difference.max() <= (2 if name.startswith("images") else 0), name


def test_node_and_script_make_the_same_pairs(served: ComfyHost, mixed: str) -> None:
    """Of masks of two sizes, in batches on both sides, with the prompt of the workflow."""
    some = {"images_per_mask": 2, "subfolders": True, "batch_size": 3, "least_contrast": 0.3}
    prompt = dataset_prompt(mixed, "page", **some)
    served.run(prompt)
    page, out = served.output / "page", served.output / "script"
    run_script(served, prompt, out, least_contrast=0.3)
    assert [pair.stem for pair in read_prompt_jsonl(out / "prompt.jsonl").pairs][:2] == [
        "m1_1", "m1_2",
    ]  # fmt: skip
    assert {pair.caption for pair in read_prompt_jsonl(page / "prompt.jsonl").pairs} == {CAPTION}
    assert_same(page, out, 20)


def test_node_and_script_paint_the_same_lesions(
    served: ComfyHost, mixed: str, backgrounds: str
) -> None:
    """Into backgrounds of two sizes; the script in batches."""
    painting = {"backgrounds": backgrounds, "edge": 5}
    prompt = dataset_prompt(mixed, "by the page", images_per_mask=2, subfolders=True, **painting)
    served.run(prompt)
    page, out = served.output / "by the page", served.output / "by the script"
    run_script(served, prompt, out, backgrounds=served.input / backgrounds, edge=5)
    assert_same(page, out, 20)
    sizes = {Image.open(path).size for path in (out / "images").rglob("*.png")}
    assert sizes == set(BEHIND)
