"""Endoscopy-like image-mask pairs from a seed, and the colour rule that finds their lesions.

    python -m siamese_diffusion.tools.pairs OUT --count 96 --size 128 --seed 0

The pairs stand in for real data in the tests. They are made so that a sampled image
can be scored without a segmentation network: in mucosa green exceeds blue, in a lesion blue
exceeds green, whatever the lighting.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..common.blobs import Blob
from ..common.prompt_jsonl import Entry, write_prompt_jsonl

PROMPT = "an endoscopic image of a lesion"
MUCOSA = ((0.88, 0.54, 0.37), (0.82, 0.50, 0.37))  # RGB; each image lies between the two
LESION = ((0.58, 0.25, 0.42), (0.70, 0.32, 0.50))
THRESHOLD = 0.02  # of (B - G) / (R + G + B): about -0.08 in mucosa, 0.13 in a lesion
COVERAGE = (0.06, 0.14)  # share of the image that the lesions cover

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


def make_pair(size: int, rng: np.random.Generator) -> tuple[Bytes, Bools]:
    """One pair: image (size, size, 3), mask (size, size), True in the lesion."""
    lesion = _lesion_height(size, rng)  # in pixels, 0 on the outline
    cover = np.clip(lesion + 0.5, 0, 1)[..., None]  # antialiased: the outline is the mask's
    colour = (1 - cover) * _mucosa(size, rng) + cover * _lesion(size, lesion, rng)
    image = colour * _lighting(size, rng)[..., None]
    image += _highlights(size, rng)[..., None]
    image += rng.normal(0, 0.012, image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), lesion > 0


def find_lesion(image: Bytes) -> Bools:
    """Where the lesion is, by colour alone: image (H, W, 3) in 0..255 -> mask (H, W)."""
    red, green, blue = np.moveaxis(image.astype(np.float32) / 255, -1, 0)
    # Divided by brightness, so that shade and light count alike; the constant keeps black black.
    chroma = (blue - green) / (red + green + blue + 0.1)
    return _blur(chroma, sigma=max(image.shape[:2]) / 80) > THRESHOLD


def iou(first: Bools, second: Bools) -> float:
    """Intersection over union of two masks of one shape; 1 when both are empty."""
    if first.shape != second.shape:
        raise ValueError(f"The masks differ in size: {first.shape} and {second.shape}.")
    union = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / union) if union else 1.0


def mean_iou(masks: Sequence[Bools], found: Sequence[Bools]) -> float:
    return float(np.mean([iou(a, b) for a, b in zip(masks, found, strict=True)]))


def shuffled_iou(masks: Sequence[Bools], found: Sequence[Bools]) -> float:
    """Mean IoU of what was found with every mask but its own."""
    values = [iou(a, b) for i, a in enumerate(masks) for j, b in enumerate(found) if i != j]
    return float(np.mean(values))


def write_pairs(folder: str | Path, count: int, size: int, seed: int) -> Path:
    """Write images/, masks/ and prompt.jsonl to `folder`; returns the path of prompt.jsonl.

    A pair depends on `seed`, `size` and its own number, not on `count`.
    """
    folder = Path(folder)
    if count < 1 or size < 32:
        raise ValueError(f"count is {count} and size {size}: at least 1 and 32 are needed.")
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    entries = []
    for index in range(count):
        image, mask = make_pair(size, np.random.default_rng((seed, index)))
        target, source = f"images/{index:05}.png", f"masks/{index:05}.png"
        Image.fromarray(image).save(folder / target)
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / source)
        entries.append(Entry(source, target, PROMPT))
    index_file = folder / "prompt.jsonl"
    write_prompt_jsonl(index_file, entries)
    return index_file


# Shapes and surfaces; all return (size, size) or (size, size, 3)


def _grid(size: int) -> tuple[Floats, Floats]:
    """y and x of the pixel centres, 0..1."""
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> Floats:
    """Noise of about unit variance whose features are size / cells pixels wide."""
    coarse = rng.normal(size=(cells + 2, cells + 2)).astype(np.float32)
    inner = (1, 1, cells + 1, cells + 1)
    fine = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC, box=inner)
    return np.asarray(fine, dtype=np.float32) * 1.4


def _lesion_height(size: int, rng: np.random.Generator) -> Floats:
    """One or two blobs, as the distance from the outline in pixels, positive inside."""
    area = rng.uniform(*COVERAGE) * size**2
    shares = [1.0] if rng.random() < 0.75 else [0.7, 0.3]
    return np.maximum.reduce([_blob(size, area * share, rng) for share in shares])


def _blob(size: int, area: float, rng: np.random.Generator) -> Floats:
    y, x = rng.uniform(0.2, 0.8, 2) * size - 0.5
    waves = [
        (number, rng.uniform(0.3, 1) * depth, rng.uniform(0, 2 * np.pi))
        for number, depth in ((2, 0.22), (3, 0.12), (5, 0.05))
    ]
    return Blob(area, waves).heights(size, size, (x, y))


def _between(ends: tuple[tuple[float, ...], ...], rng: np.random.Generator) -> Floats:
    share = rng.random()
    low, high = (np.asarray(end, dtype=np.float32) for end in ends)
    return low + share * (high - low)


def _mucosa(size: int, rng: np.random.Generator) -> Floats:
    """Pink to orange, with blotches and a net of vessels."""
    blotches = 1 + 0.03 * _smooth_noise(size, 6, rng)[..., None]
    # The zero line of a smooth field is a net of winding lines: vessels, which take green and blue.
    net = np.exp(-((_smooth_noise(size, 5, rng) / 0.09) ** 2))[..., None]
    return _between(MUCOSA, rng) * blotches * (1 - net * np.array([0.06, 0.22, 0.20]))


def _lesion(size: int, height: Floats, rng: np.random.Generator) -> Floats:
    """Purple, a dome that darkens towards its outline, with a fine pit pattern."""
    dome = 0.78 + 0.26 * np.clip(height / (0.14 * size), 0, 1) ** 0.5
    pits = 1 + 0.05 * _smooth_noise(size, max(8, size // 6), rng)
    return _between(LESION, rng) * (dome * pits)[..., None]


def _lighting(size: int, rng: np.random.Generator) -> Floats:
    """Light that falls off from near the middle, folds across it, dark corners."""
    y, x = _grid(size)
    light = rng.uniform(0.35, 0.65, 2)
    falloff = 1.08 - 0.7 * ((y - light[0]) ** 2 + (x - light[1]) ** 2)
    hub = 0.5 + 1.2 * np.array([np.cos(turn := rng.uniform(0, 2 * np.pi)), np.sin(turn)])
    distance = np.hypot(y - hub[0], x - hub[1]) + 0.03 * _smooth_noise(size, 3, rng)
    folds = 1 - 0.16 * np.exp(-((np.sin(distance * rng.uniform(7, 11)) / 0.35) ** 2))
    corner = np.hypot(y - 0.5, x - 0.5)
    vignette = 1 - 0.75 * np.clip((corner - 0.5) / 0.2, 0, 1) ** 2
    return (falloff * folds * vignette).astype(np.float32)


def _highlights(size: int, rng: np.random.Generator) -> Floats:
    """A few small white reflections of the lamp."""
    y, x = _grid(size)
    white = np.zeros((size, size), dtype=np.float32)
    for _ in range(rng.integers(2, 6)):
        cy, cx = rng.uniform(0.15, 0.85, 2)
        width, height = rng.uniform(0.008, 0.02, 2)
        white += 0.7 * np.exp(-(((y - cy) / height) ** 2) - ((x - cx) / width) ** 2)
    return white


def _blur(field: Floats, sigma: float) -> Floats:
    """Gaussian blur of (H, W), reflected at the border; sigma in pixels."""
    pad = int(4 * sigma) + 1
    padded = np.pad(field, pad, mode="reflect")
    fy = np.fft.fftfreq(padded.shape[0])[:, None]
    fx = np.fft.rfftfreq(padded.shape[1])[None]
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
    blurred = np.fft.irfft2(np.fft.rfft2(padded) * gain, s=padded.shape)
    return blurred[pad:-pad, pad:-pad].astype(np.float32)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m siamese_diffusion.tools.pairs",
        description="Write endoscopy-like image-mask pairs with a prompt.jsonl.",
    )
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--count", type=int, default=96, help="number of pairs (96)")
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels (128)")
    parser.add_argument("--seed", type=int, default=0, help="0")
    arguments = parser.parse_args(argv)
    try:
        index = write_pairs(arguments.out, arguments.count, arguments.size, arguments.seed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.count} pairs: {index}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
