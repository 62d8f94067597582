"""Prompts for the server on files that the `served` fixture puts there, and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from siamese_diffusion.tools.comfy_host import ComfyHost

from support.paths import ROOT

BASE, BUNDLE, MERGED, MASK = "base.safetensors", "bundle.safetensors", "merged.safetensors", "a.png"
WORKFLOW = ROOT / "workflows" / "api" / "1_mask_to_image.json"

Prompt = dict[str, dict[str, Any]]
# With the characters beyond \n that end a line for str.splitlines().
CAPTION = 'a "polyp", größer\u2028than\u2029a\x85centimetre'


def write_mask(path: Path, white: tuple[slice, slice], width: int = 64, height: int = 64) -> None:
    """A black image with a white rectangle: (rows, columns)."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[white] = 255
    Image.fromarray(pixels).save(path)


def bundle_prompt(**sampler: Any) -> Prompt:
    """The shipped workflow on the served files, two steps unless told otherwise."""
    prompt: Prompt = json.loads(WORKFLOW.read_text("utf-8"))
    prompt["1"]["inputs"]["ckpt_name"] = BASE
    prompt["2"]["inputs"]["bundle_name"] = BUNDLE
    prompt["3"]["inputs"]["image"] = MASK
    prompt["6"]["inputs"] |= {"steps": 2, **sampler}
    return prompt


def save_prompt(
    folder: str, stem: Any = "pair", mask: Any = ("3", 0), batch_size: int = 1
) -> Prompt:
    """Saves plain images with the served mask."""
    return {
        "3": node("LoadImageMask", image="a.png", channel="red"),
        "image": node("EmptyImage", width=96, height=64, batch_size=batch_size, color=0x4080C0),
        "save": node(
            "SiameseSavePairs", image=["image", 0], mask=list(mask), stem=stem, folder=folder,
            prompt=CAPTION,
        ),
    }  # fmt: skip


def dataset_prompt(folder: str, output: str, **settings: Any) -> Prompt:
    """The shipped workflow's models into SiameseSynthesizeDataset."""
    prompt = bundle_prompt()
    sampler = prompt.pop("6")["inputs"]
    for unused in ("3", "7", "8"):
        del prompt[unused]
    inputs = {
        **{name: value for name, value in sampler.items() if name != "mask"},
        **{"vae": ["1", 2], "folder": folder, "subfolders": False, "start": 0, "count": 0},
        **{"output_folder": output, "prompt": CAPTION, "images_per_mask": 1, **settings},
    }
    return {**prompt, "make": node("SiameseSynthesizeDataset", **inputs)}


def merged_prompt(**sampler: Any) -> Prompt:
    """The same with the merged checkpoint in place of base and bundle."""
    prompt = bundle_prompt(**sampler)
    loader = {"class_type": "SiameseCheckpointLoader", "inputs": {"ckpt_name": MERGED}}
    del prompt["2"]
    prompt["1"] = loader
    prompt["6"]["inputs"] |= {"model": ["1", 0], "control_net": ["1", 3]}
    return prompt


def pixels(path: Path) -> Any:
    """(H, W, 3) in 0..255."""
    return np.asarray(Image.open(path).convert("RGB"))


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def images(host: ComfyHost, prompt: Prompt) -> list[Any]:
    """Run it; the pictures that it saved, each (H, W, 3) in 0..255."""
    return [pixels(path) for path in host.images(host.run(prompt))]


def image(host: ComfyHost, prompt: Prompt) -> Any:
    (only,) = images(host, prompt)
    return only


def texts(host: ComfyHost, prompt: Prompt) -> list[str]:
    """Run it; the texts that its nodes showed."""
    outputs = host.run(prompt)["outputs"].values()
    return [text for output in outputs for text in output.get("text", [])]


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
