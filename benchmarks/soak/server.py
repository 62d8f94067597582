"""Many prompts, and many masks, on one ComfyUI server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...common.pictures import read_image
from ...tools.comfy_host import ROOT, ComfyHost
from ...tools.nano import build_nano
from ...tools.pairs import make_pair
from .watch import Sample, Watch, findings

BASE, BUNDLE = "soak_base.safetensors", "soak_bundle.safetensors"
SIZE = 64  # pixels
POLL_SECONDS = 1.0
DAY = 86_400.0  # seconds that a prompt may take

Prompt = dict[str, dict[str, Any]]


def soak_prompts(folder: Path, count: int) -> dict[str, Any]:
    with _served(folder, masks=1) as host:
        return prompts_on(host, count)


def soak_masks(folder: Path, count: int) -> dict[str, Any]:
    with _served(folder, masks=count) as host:
        return masks_on(host, count)


def prompts_on(host: ComfyHost, count: int) -> dict[str, Any]:
    """`count` different prompts on one server; the last has the seed of the first."""
    watch, pictures = Watch(_process(host)), []
    for number in tqdm(range(count), "prompts"):
        [path] = host.images(host.run(_mask_to_image(seed=number % (count - 1)), DAY))
        watch.sample(number + 1)
        pictures.append(path)
    equal = _same_pixels(pictures[0], pictures[-1])
    distinct = not _same_pixels(pictures[0], pictures[1])
    return findings(watch.samples, equal and distinct)


def masks_on(host: ComfyHost, count: int) -> dict[str, Any]:
    """One prompt that makes a dataset of `count` masks; then its first pair once more."""
    images = host.output / "soak" / "images"
    _remove_pairs(images.parent)
    prompt = _masks_to_dataset(count)
    number = host.queue(prompt)
    samples = _watch_until_done(host, images, count)
    host.wait(number, DAY)
    first = images / "m00000_1.png"
    kept = first.rename(images.parent / "first.png")
    (images.parent / "masks" / first.name).unlink()
    host.run(prompt, DAY)
    return findings(samples, _same_pixels(kept, first))


def _served(folder: Path, masks: int) -> ComfyHost:
    """A server with a base model, a bundle trained on it, and so many masks or more."""
    host = ComfyHost(folder / "comfyui")
    host.provision()
    base, bundle = host.models / "checkpoints" / BASE, host.models / "controlnet" / BUNDLE
    if not base.is_file():
        build_nano(base)
    write_masks(host, masks)
    _write_pair(folder / "pairs")
    if not bundle.is_file():
        _train_bundle(base, folder / "pairs" / "prompt.jsonl", bundle)
    return host


def write_masks(host: ComfyHost, count: int) -> None:
    random = np.random.default_rng(0)
    place = host.input / "soak"
    place.mkdir(exist_ok=True)
    for number in range(count):
        _, mask = make_pair(SIZE, random)
        Image.fromarray(mask).save(place / f"m{number:05}.png")


def _write_pair(folder: Path) -> None:
    image, mask = make_pair(SIZE, np.random.default_rng(0))
    folder.mkdir(exist_ok=True)
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    line = {"source": "mask.png", "target": "image.png", "prompt": "a lesion"}
    (folder / "prompt.jsonl").write_text(json.dumps(line), "utf-8")


def _train_bundle(base: Path, pairs: Path, bundle: Path) -> None:
    flags = {
        "host": "standalone", "pretrained_model_name_or_path": base, "train_data": pairs,
        "output_dir": bundle.parent, "output_name": bundle.stem, "resolution": SIZE,
        "max_train_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3,
        "save_every_n_steps": 0, "sample_steps": 1,
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "training" / "train_siamese.py")]
    subprocess.run([*command, *(f"--{k}={v}" for k, v in flags.items())], check=True)


def _mask_to_image(seed: int) -> Prompt:
    """The shipped workflow, one step."""
    workflow = ROOT / "workflows" / "api" / "1_mask_to_image.json"
    prompt: Prompt = json.loads(workflow.read_text("utf-8"))
    prompt["1"]["inputs"]["ckpt_name"] = BASE
    prompt["2"]["inputs"]["bundle_name"] = BUNDLE
    prompt["3"]["inputs"]["image"] = "soak/m00000.png"
    prompt["6"]["inputs"] |= {"seed": seed, "steps": 1}
    return prompt


def _masks_to_dataset(count: int) -> Prompt:
    prompt = _mask_to_image(seed=0)
    sampler = prompt.pop("6")["inputs"]
    for unused in ("3", "7", "8"):
        prompt.pop(unused)
    del sampler["mask"]
    inputs = {
        **sampler, "vae": ["1", 2], "folder": "soak", "subfolders": False, "start": 0,
        "count": count, "output_folder": "soak", "prompt": "a lesion", "images_per_mask": 1,
    }  # fmt: skip
    return {**prompt, "make": {"class_type": "SiameseSynthesizeDataset", "inputs": inputs}}


def _watch_until_done(host: ComfyHost, images: Path, count: int) -> list[Sample]:
    watch, done = Watch(_process(host)), 0
    with tqdm(total=count, desc="masks") as bar:
        while done < count and (host.process and host.process.poll() is None):
            done = sum(1 for path in images.glob("*.png") if not path.name.startswith("."))
            bar.update(done - bar.n)
            if done:
                watch.sample(done)
            time.sleep(POLL_SECONDS if done < count else 0)
    return watch.samples


def _process(host: ComfyHost) -> int:
    if host.process is None:
        raise RuntimeError("the server is not running")
    return host.process.pid


def _remove_pairs(folder: Path) -> None:
    """So that all are made again."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _same_pixels(first: Path, second: Path) -> bool:
    return bool(np.array_equal(read_image(first), read_image(second)))
