"""Lesions painted into images without one: what lies beyond the soft edge stays, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import maximum_filter
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.tools.comfy_host import ROOT, ComfyHost, HostError
from support.workflow_prompts import BASE, BUNDLE, dataset_prompt, image, pixels

pytest_plugins = ["support.comfy_inside", "support.served_models"]

EDGE = 4
WIDTH, HEIGHT = 100, 84  # of the background; no multiples of 8


def reach(mask: np.ndarray, edge: int) -> np.ndarray:
    """Where the mask is, or at most `edge` pixels away from it in both directions."""
    return maximum_filter(mask, 2 * edge + 1)


def photograph(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def backgrounds(served: ComfyHost, tmp_path: Path) -> str:
    """Name of a new folder in the input folder, with two photographs."""
    folder = served.input / f"normal {tmp_path.name}"
    folder.mkdir()
    for seed in (1, 2):
        Image.fromarray(photograph(seed)).save(folder / f"{seed}.png")
    return folder.name


def test_the_dataset_node_keeps_backgrounds(
    served: ComfyHost, folder: str, backgrounds: str
) -> None:
    settings: dict[str, Any] = {"backgrounds": backgrounds, "edge": EDGE, "images_per_mask": 4}
    served.run(dataset_prompt(folder, "painted", **settings))
    pairs = read_prompt_jsonl(served.output / "painted" / "prompt.jsonl").pairs
    assert len(pairs) == 12
    used = set()
    for pair in pairs:
        made, mask = pixels(pair.image), pixels(pair.mask)[..., 0] > 127
        beyond = ~reach(mask, EDGE)
        (seed,) = [s for s in (1, 2) if np.array_equal(made[beyond], photograph(s)[beyond])]
        used.add(seed)
        assert not np.array_equal(made[mask], photograph(seed)[mask])
    assert used == {1, 2}


def test_a_background_is_chosen_by_the_pair_alone(
    served: ComfyHost, folder: str, backgrounds: str
) -> None:
    for output, start in (("first", 0), ("alone", 1)):
        served.run(dataset_prompt(folder, output, backgrounds=backgrounds, start=start, count=2))
    first, alone = (pixels(served.output / n / "images" / "m2_1.png") for n in ("first", "alone"))
    assert np.array_equal(first, alone)


def test_a_folder_of_backgrounds_that_is_not_there_is_named(served: ComfyHost, folder: str) -> None:
    with pytest.raises(HostError, match=r"No folder 'nowhere' in ComfyUI's input folder"):
        served.run(dataset_prompt(folder, "nothing", backgrounds="nowhere"))


def test_the_workflow_keeps_the_background(served: ComfyHost) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:60, 40:70] = True
    painted = np.dstack([photograph(3), np.where(mask, 0, 255).astype(np.uint8)])
    Image.fromarray(painted).save(served.input / "painted lesion.png")
    prompt = json.loads((ROOT / "workflows/api/4_lesion_into_image.json").read_text("utf-8"))
    small = {"ckpt_name": BASE, "bundle_name": BUNDLE, "image": "painted lesion.png", "steps": 2}
    for node in prompt.values():
        for name, value in {**small, "width": 64, "height": 64, "edge": EDGE}.items():
            if name in node["inputs"] and not isinstance(node["inputs"][name], list):
                node["inputs"][name] = value
    made = image(served, prompt)
    beyond = ~reach(mask, EDGE)
    assert np.array_equal(made[beyond], photograph(3)[beyond])
    assert not np.array_equal(made[mask], photograph(3)[mask])
