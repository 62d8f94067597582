"""A real dataset through the whole product: cell nuclei of the 2018 Data Science Bowl.

    python -m siamese_diffusion.tools.dsb2018 TEST/prompt.jsonl \\
        --base nano_dsb.safetensors --bundle dsb2018.safetensors --out dsb2018_samples

Samples test masks in a real ComfyUI, writes the images and a contact sheet mask | sampled | real,
and prints how well a brightness threshold finds the mask again. docs/dsb2018.md has the commands
that come before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..common.pairs import DatasetError, Pair
from ..common.prompt_jsonl import read_prompt_jsonl
from .comfy_host import ComfyHost, HostError
from .demo import (
    DemoError,
    contact_sheet,
    mean_iou,
    patch_prompt,
    read_prompt,
    read_rgb,
    shuffled_iou,
)
from .pairs import Bools, Bytes


def choose(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """`count` pairs spread evenly over the captions' kinds and the dataset's order."""
    ordered = sorted(pairs, key=lambda pair: (pair.caption, pair.stem))
    return [ordered[i * len(ordered) // count] for i in range(count)]


def sample(host: ComfyHost, pairs: Sequence[Pair], size: int, seed: int) -> list[Path]:
    """One image for each pair's mask and caption, with the published sampler settings."""
    images = []
    for number, pair in enumerate(tqdm(pairs, desc="sampling", unit="image")):
        name = f"dsb2018_{number:02}.png"
        shutil.copy(pair.mask, host.input / name)
        prompt = patch_prompt(
            read_prompt(),
            {
                "CheckpointLoaderSimple": {"ckpt_name": "dsb2018_base.safetensors"},
                "SiameseBundleLoader": {"bundle_name": "dsb2018.safetensors"},
                "LoadImageMask": {"image": name},
                "SiameseSampler": {"seed": seed + number, "width": size, "height": size},
                "SaveImage": {"filename_prefix": "dsb2018/sample"},
            },
        )
        positive = next(node for node in prompt.values() if node["class_type"] == "CLIPTextEncode")
        positive["inputs"]["text"] = pair.caption
        images += host.images(host.run(prompt))
    return images


def nuclei(image: Bytes) -> Bools:
    """The smaller of the two parts that Otsu's threshold on brightness makes.

    Nuclei are bright in fluorescence and dark elsewhere, and cover less than half of a tile.
    """
    grey = image.mean(axis=2)
    bright = grey > otsu(grey)
    return bright if bright.mean() < 0.5 else ~bright


def otsu(grey: np.ndarray) -> float:
    """The threshold that parts the values into two groups with the least variance within them."""
    counts, edges = np.histogram(grey, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    sums = np.cumsum(counts * centres)
    mean_below = sums / np.maximum(below, 1)
    mean_above = (sums[-1] - sums + counts * centres) / np.maximum(above, 1)
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(edges[1:][np.argmax(between)])


def report(pairs: Sequence[Pair], images: Sequence[Path], size: int, out: Path) -> None:
    """Write images and contact sheet, and print the figures."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    sampled = [read_rgb(path) for path in images]
    for pair, path in zip(pairs, images, strict=True):
        shutil.copy(path, out / "images" / f"{pair.stem}.png")
    masks = [resized(pair.mask, size, Image.Resampling.NEAREST)[..., 0] > 127 for pair in pairs]
    real = [resized(pair.image, size, Image.Resampling.BILINEAR) for pair in pairs]
    found = [nuclei(image) for image in sampled]
    known = [nuclei(image) for image in real]
    sheet = contact_sheet(masks, sampled, real, titles=("mask", "sampled", "real"))
    sheet.save(out / "contact_sheet.png")
    figures = {
        "masks": len(masks),
        "iou": mean_iou(masks, found),
        "iou_in_real_images": mean_iou(masks, known),
        "iou_with_shuffled_masks": shuffled_iou(masks, found),
    }
    (out / "results.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(f"contact sheet: {out / 'contact_sheet.png'}")
    print(
        f"mean IoU of mask and thresholded brightness: {figures['iou']:.2f}; in real images: "
        f"{figures['iou_in_real_images']:.2f}; with shuffled masks: "
        f"{figures['iou_with_shuffled_masks']:.2f}"
    )


def resized(path: Path, size: int, method: Image.Resampling) -> Bytes:
    return np.asarray(Image.open(path).convert("RGB").resize((size, size), method))


def run(given: argparse.Namespace) -> None:
    """Sample and report. Raises DatasetError, OSError or HostError for what does not work."""
    listing = read_prompt_jsonl(given.pairs)
    if listing.problems:
        raise DatasetError(given.pairs, listing.problems)
    pairs = choose(listing.pairs, given.count)
    host = ComfyHost(given.out / "comfyui")
    host.provision()
    shutil.copy(given.base, host.models / "checkpoints" / "dsb2018_base.safetensors")
    shutil.copy(given.bundle, host.models / "controlnet" / "dsb2018.safetensors")
    with host:
        images = sample(host, pairs, given.size, given.seed)
    report(pairs, images, given.size, given.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where a file is missing or wrong, or ComfyUI refuses it."""
    parser = argparse.ArgumentParser(prog="dsb2018", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pairs", type=Path, help="prompt.jsonl of the test split")
    parser.add_argument("--base", type=Path, required=True, help="base checkpoint")
    parser.add_argument("--bundle", type=Path, required=True, help="trained bundle")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--count", type=int, default=16, help="masks (16)")
    parser.add_argument("--size", type=int, default=128, help="of the images, in pixels (128)")
    parser.add_argument("--seed", type=int, default=0, help="of the first image (0)")
    given = parser.parse_args(argv)
    try:
        run(given)
    except (OSError, DatasetError, DemoError, HostError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
