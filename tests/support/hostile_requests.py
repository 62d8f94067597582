"""Requests that no page would send, and files in ComfyUI's folders that no owner would want."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from siamese_diffusion.tools.comfy_host import ComfyHost

from support.hostile_pickles import as_zip, tuples_in_tuples
from support.hostile_weights import NAN, OUT, content, holding_itself, tensors
from support.workflow_prompts import (
    Prompt,
    bundle_prompt,
    dataset_prompt,
    merged_prompt,
    node,
    save_prompt,
    write_mask,
)

SURROGATE = "\ud800"
NOT_UTF8 = "caf\udce9"
LONG = "n" * 300
HUGE = "n" * 1_000_000
OUTSIDE = "outside"  # a folder beside ComfyUI's own


@dataclass(frozen=True)
class Request:
    """A prompt in API format, what belongs to it, and what its refusal must say."""

    prompt: Prompt
    says: str
    extra: Any = None


def mask_node(**inputs: Any) -> Prompt:
    return {"mask": node("SiameseRandomMask", **{**RANDOM, **inputs})}


RANDOM: dict[str, Any] = {
    "seed": 0, "width": 64, "height": 64, "count": 1, "lesions": 1, "smallest": 3.0, "largest": 15.0
}  # fmt: skip
AUGMENT: dict[str, Any] = {
    "seed": 0, "variants": 1, "flip": True, "rotation": 20.0, "scale": 0.2, "elastic": 0.5
}  # fmt: skip
IMAGE = {"image": node("EmptyImage", width=64, height=64, batch_size=1, color=0x4080C0)}
PREVIEW = {"preview": node("PreviewImage", images=["made", 0])}
SHOWN = {"shown": node("MaskPreview", mask=["made", 0])}


def random_mask(**inputs: Any) -> Prompt:
    return {"made": node("SiameseRandomMask", **{**RANDOM, **inputs}), **SHOWN}


def augmented(**inputs: Any) -> Prompt:
    made = node("SiameseAugmentMask", mask=["mask", 0], **{**AUGMENT, **inputs})
    return {**mask_node(), "made": made, **SHOWN}


def overlay(**inputs: Any) -> Prompt:
    given = {"colour": "green", "outline": 2, "tint": 0.2, **inputs}
    made = node("SiameseOverlay", image=["image", 0], mask=["mask", 0], **given)
    return {**mask_node(), **IMAGE, "made": made, **PREVIEW}


def sheet(**inputs: Any) -> Prompt:
    given = {"image": ["image", 0], "columns": 0, "cell_size": 64, **inputs}
    return {**IMAGE, "made": node("SiameseContactSheet", **given), **PREVIEW}


def filtered(**inputs: Any) -> Prompt:
    given = {"minimum": 0.0, "stem": "pair", **inputs}
    made = node("SiameseFilterPairs", image=["image", 0], mask=["mask", 0], **given)
    return {**mask_node(), **IMAGE, "made": made, **PREVIEW}


def mask_folder(**inputs: Any) -> Prompt:
    given = {"folder": "good", "subfolders": False, "start": 0, "count": 0, **inputs}
    return {"made": node("SiameseLoadMaskFolder", **given), **SHOWN}


def saved(**inputs: Any) -> Prompt:
    prompt = save_prompt("hostile")
    prompt["save"]["inputs"] |= inputs
    return prompt


def info(name: Any) -> Prompt:
    return {"info": node("SiameseModelInfo", file_name=name)}


def bundle(**inputs: Any) -> Prompt:
    prompt = bundle_prompt()
    prompt["2"]["inputs"] |= inputs
    return prompt


def checkpoint(name: Any) -> Prompt:
    prompt = merged_prompt()
    prompt["1"]["inputs"]["ckpt_name"] = name
    return prompt


def applied(**inputs: Any) -> Prompt:
    """The mask by the node for core samplers."""
    prompt = bundle_prompt()
    prompt["5"] = node("CLIPTextEncode", text="", clip=["1", 1])
    given = {
        "positive": ["5", 0], "negative": ["5", 0], "control_net": ["2", 1], "mask": ["3", 0],
        "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, **inputs,
    }  # fmt: skip
    prompt["apply"] = node("SiameseApplyMask", **given)
    prompt["latent"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    prompt["6"] = node(
        "KSampler", model=["2", 0], positive=["apply", 0], negative=["apply", 1],
        latent_image=["latent", 0], seed=0, steps=1, cfg=1.0, sampler_name="euler",
        scheduler="normal", denoise=1.0,
    )  # fmt: skip
    return prompt


def write_files(host: ComfyHost) -> None:
    """What the requests name: good masks, hostile files, and links that lead out."""
    outside = host.base / OUTSIDE
    for folder in (outside, host.input / "good", host.input / "links", host.output / "taken"):
        folder.mkdir()
    for folder in (outside, host.input / "good"):
        write_mask(folder / "m.png", (slice(8, 40), slice(8, 40)))
    (host.input / "link out").symlink_to(outside)
    (host.input / "links" / "m.png").symlink_to(outside / "m.png")
    (host.input / "scores out.jsonl").symlink_to(outside / "scores.jsonl")
    (outside / "scores.jsonl").write_text('{"target": "pair.png", "agreement": 1}\n')
    (host.output / "link out").symlink_to(outside)
    (host.output / "taken" / "images").symlink_to(outside)
    for name, data in SCORES.items():
        (host.input / f"{name}.jsonl").write_bytes(data)
    for name, data in LISTS.items():
        (folder := host.output / f"list {name}").mkdir()
        (folder / "prompt.jsonl").write_bytes(data)
    for name, data in UPLOADS.items():
        (folder := host.input / f"uploaded {name}").mkdir()
        (folder / "m.png").write_bytes(data)
    for name, pixels in (("unlike", 60), ("large", 6000)):
        (folder := host.input / name).mkdir()
        write_mask(folder / "m.png", (slice(0, 30), slice(0, 30)), width=pixels, height=pixels)
    (host.input / "many").mkdir()
    for number in range(12):
        (host.input / "many" / f"{number}.png").symlink_to(host.input / "large" / "m.png")
    (host.input / "not text").mkdir()
    write_mask(host.input / "not text" / f"{NOT_UTF8}.png", (slice(8, 40), slice(8, 40)))
    (host.input / "long").mkdir()
    write_mask(host.input / "long" / f"{'n' * 250}.png", (slice(8, 40), slice(8, 40)))
    for name, write in WEIGHTS.items():
        write(host.models / "controlnet" / name)


SCORES = {
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe",
    "a number of 5000 digits": b'{"target": "pair", "agreement": ' + b"9" * 5000 + b"}",
    "NaN": b'{"target": "pair", "agreement": NaN}',
    "no target": b'{"agreement": 1}',
    "one long line": b" " * (2 << 20),
}
LISTS = {
    "of bytes": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "of numbers": b"1\n2\n",
    "of surrogates": b'{"source": "a", "target": "b", "prompt": "\\ud800"}\n',
}


def picture(kind: str, mode: str = "L", size: int = 64, **options: Any) -> bytes:
    image = Image.new(mode, (size, size))
    image.paste(255 if mode == "L" else "white", (8, 8, 40, 40))
    image.save(buffer := BytesIO(), kind, **options)
    return buffer.getvalue()


def uploads() -> Iterator[tuple[str, bytes]]:
    good = picture("png")
    yield (
        "PostScript",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file\nshowpage\n",
    )
    yield "GIF", picture("gif")
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "HTML", b"<!DOCTYPE html><script>alert(1)</script>"
    yield "nothing", b""
    yield "half", good[: len(good) // 2]
    yield "wrong checksum", good[:-14] + bytes([good[-14] ^ 1]) + good[-13:]
    yield (
        "animation",
        picture("webp", "RGB", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
    )
    yield "60000 pixels", good[:16] + b"\0\0\xea\x60" * 2 + good[24:]
    yield "12 bits", encoded(np.full((64, 64), 4095, np.uint16), "tiff")
    yield "class numbers", encoded(np.eye(64, dtype=np.uint8))
    alpha = np.zeros((64, 64, 2), np.uint8)
    alpha[8:40, 8:40, 1] = 255
    yield "mask in alpha", encoded(alpha)
    yield "pickle", b"\x80\x02cos\nsystem\nq\x00."


def encoded(array: np.ndarray, kind: str = "png") -> bytes:
    Image.fromarray(array).save(buffer := BytesIO(), kind)
    return buffer.getvalue()


UPLOADS = dict(uploads())
WEIGHTS: dict[str, Callable[[Path], object]] = {
    "itself.pth": content(holding_itself()),
    "tuples.pth": as_zip(tuples_in_tuples()),
    "code.pth": as_zip(b"cos\nsystem\nX\x04\x00\x00\x00true\x85R."),
    "sparse.pth": content({**tensors(), OUT: torch.ones(4, 8, 3, 3).to_sparse()}),
    "nan.safetensors": lambda path: save_file(
        {**tensors(), OUT: torch.full((4, 8, 3, 3), NAN)}, path
    ),
    "odd.safetensors": lambda path: save_file({**tensors(), OUT: torch.ones(())}, path),
    "text.safetensors": lambda path: path.write_text("not weights"),
    "nothing.safetensors": lambda path: path.write_bytes(b""),
    f"{NOT_UTF8}.safetensors": lambda path: path.write_bytes(b""),
}


def numbers() -> Iterator[tuple[str, Request]]:
    """Wrong numbers for an input of each kind."""
    makers: dict[str, Callable[[Any], Prompt]] = {
        "tint": lambda value: overlay(tint=value),
        "outline": lambda value: overlay(outline=value),
        "elastic": lambda value: augmented(elastic=value),
        "smallest": lambda value: random_mask(smallest=value),
        "minimum": lambda value: filtered(minimum=value),
        "steps": lambda value: bundle_prompt(steps=value),
        "decoder_strength": lambda value: bundle(decoder_strength=value),
    }
    wrong: list[Any] = [math.nan, math.inf, -math.inf, "nan", "a", None, [], {}, 10**400, -1]
    for name, make in makers.items():
        for value in wrong:
            yield f"{name} {shown(value)}", Request(make(value), name)


def shown(value: Any) -> str:
    return json.dumps(value)[:20]


def texts() -> Iterator[tuple[str, Request]]:
    """Names and texts that escape, are too long, or cannot be written."""
    paths = {
        "..": "..", "../..": "../../etc", "a/../..": "a/../../b", "absolute": "/etc",
        "drive": "C:\\x",
        "backslashes": "..\\..\\x", "share": "\\\\host\\share", "null": "a\0b", "line end": "a\nb",
        "escape": "\x1b[2Ja", "stream": "a:b", "pipe": "a|b", "empty": "", "blank": "   ",
        "dot": ".", "device": "a/CON", "device with an ending": "nul.txt", "dot at the end": "a./b",
        "blank at the end": "a /b",
        "hidden": ".ssh", "surrogate": SURROGATE, "not UTF-8": NOT_UTF8, "long": LONG, "huge": HUGE,
        "deep": "a/" * 2000 + "b",
    }  # fmt: skip
    for name, value in paths.items():
        yield f"input {name}", Request(mask_folder(folder=value), "folder")
        yield f"output {name}", Request(saved(folder=value), "folder")
        yield f"stem {name}", Request(saved(stem=value), "stem")
        if name not in ("empty", "blank"):  # no scores
            yield f"scores {name}", Request(filtered(scores=value), "scores|file|No file")
    yield "caption", Request(saved(prompt=SURROGATE), "prompt")


def choices() -> Iterator[tuple[str, Request]]:
    makers: dict[str, Callable[[Any], Prompt]] = {
        "colour": lambda value: overlay(colour=value),
        "ckpt_name": checkpoint,
        "file_name": info,
    }
    wrong: list[Any] = ["nope", SURROGATE, HUGE, None, 3, [], {}, "../../etc/passwd", "/etc", ""]
    for name, make in makers.items():
        for value in wrong:
            yield f"{name} {shown(value)}", Request(make(value), name)
    for value in (*wrong[:2], "../../etc/passwd"):  # after a model has been loaded
        yield f"bundle {shown(value)}", Request(bundle(bundle_name=value), "bundle_name")
        yield f"sampler {shown(value)}", Request(bundle_prompt(sampler_name=value), "sampler_name")
        yield f"scheduler {shown(value)}", Request(bundle_prompt(scheduler=value), "scheduler")
    yield "cfg nan", Request(bundle_prompt(cfg="nan"), "cfg")
    yield "strength nan", Request(applied(strength="nan"), "strength")


def amounts() -> Iterator[tuple[str, Request]]:
    """Within the limits of each input, and far too much together."""
    yield "random masks", Request(random_mask(count=1000, width=4096, height=4096), "Lower count")
    yield (
        "variants",
        Request(
            {**augmented(variants=1000), **mask_node(width=1024, height=1024)}, "Lower variants"
        ),
    )
    yield "cells", Request(
        {**sheet(cell_size=1024), "image": node("EmptyImage", width=8, height=8, batch_size=500,
        color=0)},
        "Lower cell_size",
    )  # fmt: skip
    yield "masks of a folder", Request(mask_folder(folder="many"), "Set count")
    yield (
        "a mask's own size",
        Request(dataset_prompt("large", "hostile"), "at most 4096 are sampled"),
    )
    yield "start", Request(mask_folder(start=10**9), "start is 1000000000")
    yield "smallest above largest", Request(random_mask(smallest=50.0), "Swap them")
    yield "size of a mask", Request(dataset_prompt("unlike", "hostile"), "multiples of 8")


def painting() -> Iterator[tuple[str, Request]]:
    """The dataset node's backgrounds, and the edge around a lesion painted into one."""
    for name, value in {
        "..": "..", "a/../..": "a/../../b", "absolute": "/etc", "drive": "C:\\x", "null": "a\0b",
        "hidden": ".ssh", "surrogate": SURROGATE, "long": LONG, "missing": "nowhere",
        "a file": "good/m.png", "a link": "link out", "linked images": "links", "a number": 3,
        "a list": [], "null value": None,
    }.items():  # fmt: skip
        yield f"backgrounds {name}", Request(painted(value), "folder|backgrounds|link")
    for name in ("PostScript", "half", "60000 pixels", "nothing"):
        yield f"backgrounds of {name}", Request(painted(f"uploaded {name}"), "m.png")
    wrong: list[Any] = [-1, 513, 10**9, 10**400, math.nan, math.inf, "nan", "a", None, [], {}]
    for value in wrong:
        yield f"edge {shown(value)}", Request(painted("good", edge=value), "edge")
    for value in [0, 1.5, *wrong]:
        prompt = dataset_prompt("good", "hostile", least_contrast=value)
        yield f"least_contrast {shown(value)}", Request(prompt, "least_contrast")
    yield (
        "contrast of backgrounds",
        Request(painted("good", least_contrast=0.5), "stay as they are"),
    )


def painted(backgrounds: Any, edge: Any = 16, **settings: Any) -> Prompt:
    return dataset_prompt("good", "hostile", backgrounds=backgrounds, edge=edge, **settings)


def files() -> Iterator[tuple[str, Request]]:
    """Files that are there, and hostile."""
    for name in UPLOADS:
        yield f"mask {name}", Request(mask_folder(folder=f"uploaded {name}"), "m.png")
    yield (
        "dataset of PostScript",
        Request(dataset_prompt("uploaded PostScript", "hostile"), "m.png"),
    )
    yield "scores that are missing", Request(filtered(scores="nowhere.jsonl"), "No file")
    for name in SCORES:
        yield f"scores {name}", Request(filtered(scores=f"{name}.jsonl"), "jsonl")
    for name in LISTS:
        yield f"list {name}", Request(saved(folder=f"list {name}"), "prompt.jsonl")
    for name in WEIGHTS:
        if name != f"{NOT_UTF8}.safetensors":
            yield f"weights {name}", Request(bundle(bundle_name=name), name)
        if name != "odd.safetensors":  # whose kind it says
            yield f"info of {name}", Request(info(f"controlnet/{name}"), "controlnet")
    yield "name that is no text", Request(mask_folder(folder="not text"), "Rename")
    yield "name that is too long", Request(dataset_prompt("long", "hostile"), "shorter")
    yield "link to a folder", Request(mask_folder(folder="link out"), "link")
    yield "link to a mask", Request(mask_folder(folder="links"), "link")
    yield "link to scores", Request(filtered(scores="scores out.jsonl"), "link")
    yield "link in the output", Request(saved(folder="link out"), "link")
    yield "link among pairs", Request(saved(folder="taken"), "link")


def metadata() -> Iterator[tuple[str, Request]]:
    """What the page would send for the pictures' metadata."""
    for name, extra in {
        "a list": [1], "a text": "x", "a number": 3, "Chinese": {"漢": 1}, "null": {"a\0b": 1},
        "surrogate": {SURROGATE: 1}, "empty": {"": 1}, "long": {LONG: 1},
        "20 MB": {"workflow": "n" * (20 << 20)},
    }.items():  # fmt: skip
        yield f"metadata {name}", Request(saved(), "extra_pnginfo", extra)


REQUESTS = {
    name: request
    for part in (numbers(), texts(), choices(), amounts(), painting(), files(), metadata())
    for name, request in part
}
