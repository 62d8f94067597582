"""Flags of ComfyUI: previews while nodes sample, pictures without metadata, no cache."""

from __future__ import annotations

import asyncio
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from PIL import Image
from siamese_diffusion.tools.comfy_host import ComfyHost
from support.workflow_prompts import (
    BUNDLE,
    Prompt,
    bundle_prompt,
    dataset_prompt,
    image,
    node,
    save_prompt,
    texts,
    write_mask,
)

pytest_plugins = ["support.served_models"]

FLAGS = ("--preview-method", "latent2rgb", "--disable-metadata", "--cache-none")
PREVIEW = struct.pack(">II", 1, 1)  # a message with a picture, and that it is a JPEG


@pytest.fixture(scope="module")
def flagged(served: ComfyHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyHost]:
    """Another server on the same models and input, and two masks for both."""
    base = tmp_path_factory.mktemp("flags")
    for folder in ("models", "input"):
        (base / folder).symlink_to(served.base / folder)
    (served.input / "flags").mkdir()
    for name in ("m1", "m2"):
        write_mask(served.input / "flags" / f"{name}.png", (slice(8, 40), slice(8, 40)))
    with ComfyHost(base, flags=FLAGS) as host:
        yield host


class Shown(NamedTuple):
    """What a run shows in the page: preview pictures, and (value, max) of the progress bar."""

    previews: list[Image.Image]
    progress: list[tuple[int, int]]


async def shown_while(host: ComfyHost, prompt: Prompt, node_id: str) -> Shown:
    """What the server tells about that node until nothing is left to do."""
    shown = Shown([], [])
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{host.url}/ws") as socket:
        await socket.receive()  # the state before
        running = asyncio.create_task(asyncio.to_thread(host.run, prompt))
        busy = False
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                if message.data.startswith(PREVIEW):  # not a text, which nodes show as well
                    picture = io.BytesIO(message.data[len(PREVIEW) :])
                    shown.previews.append(Image.open(picture))
                continue
            event = json.loads(message.data)
            if event["type"] == "progress" and event["data"]["node"] == node_id:
                shown.progress.append((event["data"]["value"], event["data"]["max"]))
            if event["type"] == "status":
                left = event["data"]["status"]["exec_info"]["queue_remaining"]
                if busy and not left:
                    break
                busy = bool(left)
        await running
    return shown


@pytest.mark.parametrize("node_id", ["6", "make"])
def test_every_step_is_shown(flagged: ComfyHost, node_id: str) -> None:
    prompt = bundle_prompt(steps=4)
    if node_id == "make":
        prompt = dataset_prompt("flags", "previewed", steps=2)  # of two masks
    shown = asyncio.run(shown_while(flagged, prompt, node_id))
    assert shown.progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(shown.previews) == 4
    assert {preview.size for preview in shown.previews} == {(512, 512)}
    assert len({preview.tobytes() for preview in shown.previews}) == 4


def saved_metadata(host: ComfyHost, output: str) -> dict[Path, set[str]]:
    """Picture -> keys of its metadata, after both nodes have saved pairs in that folder."""
    host.run(save_prompt(f"{output}/saved"))
    host.run(dataset_prompt("flags", f"{output}/made"))
    pictures = sorted((host.output / output).rglob("*.png"))
    found = {}
    for path in pictures:
        with Image.open(path) as picture:
            found[path.relative_to(host.output / output)] = {str(key) for key in picture.info}
    return found


def test_pictures_carry_no_workflow_when_metadata_is_off(
    served: ComfyHost, flagged: ComfyHost
) -> None:
    off, on = (saved_metadata(host, "metadata") for host in (flagged, served))
    assert len(off) == 6
    assert not any(off.values())
    assert {path for path, keys in on.items() if "prompt" in keys} == {
        path for path in off if path.parts[1] == "images"
    }


def test_what_left_the_cache_is_made_again(flagged: ComfyHost) -> None:
    """As where memory is short: newer ComfyUIs then drop outputs before the run has ended."""
    info = {"info": node("SiameseModelInfo", file_name=f"controlnet/{BUNDLE}")}
    (text,), again = (texts(flagged, info) for _ in range(2))
    assert "hint channels: 3" in text
    assert again == [text]
    first, second = (image(flagged, bundle_prompt(seed=1)) for _ in range(2))
    assert (first == second).all()
