"""Folders of masks and datasets, through the nodes of a real server."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from siamese_diffusion.common.pictures import read_palette_mask
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.tools.comfy_host import ComfyHost, HostError
from support.full_disk import at_most
from support.needs import Need
from support.power_loss import DurableDisk
from support.workflow_prompts import (
    CAPTION,
    Prompt,
    files,
    images,
    node,
    pixels,
    save_prompt,
    texts,
    write_mask,
)

pytest_plugins = ["support.comfy_inside", "support.served_models"]

linux: pytest.MarkDecorator = Need.LINUX.unless(sys.platform == "linux")


def load_prompt(folder: str, **settings: Any) -> Prompt:
    """Shows the masks of a folder, their widths telling which they are."""
    inputs = {"folder": folder, "subfolders": False, "start": 0, "count": 0, **settings}
    return {
        "load": node("SiameseLoadMaskFolder", **inputs),
        "image": node("MaskToImage", mask=["load", 0]),
        "show": node("PreviewImage", images=["image", 0]),
        "stem": node("PreviewAny", source=["load", 1]),
    }


# Loading


def test_masks_come_in_natural_order_with_their_stems(served: ComfyHost, folder: str) -> None:
    history = served.run(load_prompt(folder))
    assert history["outputs"]["stem"]["text"] == ["m1", "m2", "m10"]
    widths = [int(pixels(path)[0, :, 0].sum()) // 255 for path in served.images(history)]
    assert widths == [8, 16, 24]


@pytest.mark.parametrize(
    ("settings", "stems"),
    [
        ({"subfolders": True}, ["m1", "m2", "m10", "sub/m3"]),
        ({"start": 1}, ["m2", "m10"]),
        ({"start": 1, "count": 1}, ["m2"]),
        ({"count": 9}, ["m1", "m2", "m10"]),
    ],
)
def test_subfolders_start_and_count_choose_masks(
    served: ComfyHost, folder: str, settings: dict[str, Any], stems: list[str]
) -> None:
    assert texts(served, load_prompt(folder, **settings)) == stems


def test_a_changed_folder_is_read_again(served: ComfyHost, folder: str) -> None:
    assert len(texts(served, load_prompt(folder))) == 3
    write_mask(served.input / folder / "m11.png", (slice(0, 1), slice(0, 1)))
    assert len(texts(served, load_prompt(folder))) == 4


def test_grey_sixteen_bits_and_palettes_are_cut_at_one_half(served: ComfyHost) -> None:
    root = served.input / "kinds"
    root.mkdir()
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    Image.fromarray(grey).save(root / "grey.png")
    Image.fromarray(grey.astype(np.uint16) << 8).save(root / "sixteen.png")
    palette = Image.fromarray(np.array([[0, 0, 1, 1]], np.uint8), mode="L").convert("P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(root / "palette.png")
    for found in images(served, load_prompt("kinds")):
        assert found[0, :, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"No folder 'nowhere' in ComfyUI's input folder .*Choose one of its folders"),
        ("../output", r"expected a name or a relative path"),
        ("/etc", r"expected a name or a relative path"),
        ("", r"expected a name or a relative path"),
        ("empty", r"no images \(.bmp"),
        ("twice", r"a.bmp and a.png have the same name, or one"),
        ("broken", r"broken.png: cannot be decoded as an image"),
        ("dark", r"m1.png: the mask's brightest value is 1 of 255.*Multiply by 255"),
    ],
)
def test_a_wrong_folder_is_an_error(served: ComfyHost, name: str, message: str) -> None:
    for extra in ("empty", "twice", "broken", "dark"):
        (served.input / extra).mkdir(exist_ok=True)
    for file in ("a.png", "a.bmp"):
        write_mask(served.input / "twice" / file, (slice(0, 1), slice(0, 1)))
    (served.input / "broken" / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(served.input / "dark" / "m1.png")
    with pytest.raises(HostError, match=f"SiameseLoadMaskFolder.*{message}"):
        served.run(load_prompt(name))


def voc_palette(classes: np.ndarray) -> Image.Image:
    """Class 1 dark red, as in Pascal VOC's masks."""
    indexed = Image.fromarray(classes.astype(np.uint8)).convert("P")
    indexed.putpalette([0, 0, 0, 128, 0, 0])
    return indexed


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("m.png", lambda eye: Image.fromarray(eye.astype(np.uint8)), "1 of 255; .* by 255"),
        ("m.png", lambda eye: Image.fromarray(eye.astype(np.uint8) * 127), "127 of 255"),
        ("m.png", lambda eye: Image.fromarray(eye.astype(np.uint16) * 255), "255 of 65535; .* 257"),
        ("m.png", voc_palette, "38 of 255"),
        ("m.tif", lambda eye: Image.fromarray(eye.astype(np.float32)), "type F, .* 8 or 16 bits"),
        ("m.tif", lambda eye: Image.fromarray(eye.astype(np.int32) * 255), "type I, .* 16 bits"),
    ],
)
def test_masks_that_would_come_out_empty_are_refused(
    pack: SimpleNamespace,
    tmp_path: Path,
    name: str,
    picture: Callable[[np.ndarray], Image.Image],
    message: str,
) -> None:
    picture(np.eye(8)).save(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        pack.folders.read_mask(tmp_path / name)


def test_a_mask_of_several_pictures_is_refused(pack: SimpleNamespace, tmp_path: Path) -> None:
    page = Image.fromarray(np.eye(8, dtype=np.uint8) * 255)
    page.save(tmp_path / "m.tif", save_all=True, append_images=[page])
    with pytest.raises(ValueError, match=r"m.tif: .*it holds 2 images"):
        pack.folders.read_mask(tmp_path / "m.tif")


def test_a_black_mask_is_an_empty_one(pack: SimpleNamespace, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(tmp_path / "m.png")
    assert torch.equal(pack.folders.read_mask(tmp_path / "m.png"), torch.zeros(1, 4, 8))


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize("inputs", [(None, False), ("masks", None)])
def test_a_linked_input_reads_the_folder_anew(inputs: tuple[Any, Any]) -> None:
    """ComfyUI gives None for an input whose value another node has yet to make."""
    from siamese_diffusion.nodes.dataset_nodes import SiameseLoadMaskFolder

    found = SiameseLoadMaskFolder.fingerprint_inputs(*inputs, start=0, count=0)
    assert isinstance(found, float) and math.isnan(found)


def test_a_start_beyond_the_masks_is_an_error(served: ComfyHost, folder: str) -> None:
    with pytest.raises(HostError, match=r"start is 3; the 3 masks are numbered from 0 to 2"):
        served.run(load_prompt(folder, start=3))


# Saving


def test_pairs_are_saved_as_the_trainer_reads_them(served: ComfyHost) -> None:
    saved = served.images(served.run(save_prompt("saved/pairs", "sub/polyp 7")))
    root = served.output / "saved" / "pairs"
    assert saved == [root / "images" / "sub" / "polyp 7.png"]
    assert files(root) == ["images/sub/polyp 7.png", "masks/sub/polyp 7.png", "prompt.jsonl"]
    with Image.open(root / "masks" / "sub" / "polyp 7.png") as mask:
        assert (mask.mode, mask.size) == ("L", (96, 64))
        assert np.unique(np.asarray(mask)).tolist() == [0, 255]
    (pair,) = read_prompt_jsonl(root / "prompt.jsonl").pairs
    assert (pair.image, pair.caption) == (saved[0], CAPTION)
    assert pair.mask.is_file()
    assert pixels(saved[0])[0, 0].tolist() == [0x40, 0x80, 0xC0]


def test_nothing_is_overwritten(served: ComfyHost) -> None:
    root = served.output / "kept"
    served.run(save_prompt("kept", "a", batch_size=2))
    before = {path: path.read_bytes() for path in root.rglob("*.png")}
    (root / "prompt.jsonl").write_text(
        (root / "prompt.jsonl").read_text("utf-8").rstrip("\n"), "utf-8"
    )
    served.run(save_prompt("kept", "a", batch_size=3))
    assert {path: path.read_bytes() for path in before} == before
    names = [pair.stem for pair in read_prompt_jsonl(root / "prompt.jsonl").pairs]
    assert names == ["a", "a_2", "a_3", "a_4", "a_5"]
    assert [name for name in files(root) if "tmp" in name] == []


def test_a_deleted_image_takes_its_caption_with_it(served: ComfyHost) -> None:
    root = served.output / "again"
    for stem in ("a", "b"):
        served.run(save_prompt("again", stem))
    for kind in ("images", "masks"):
        (root / kind / "a.png").unlink()
    prompt = save_prompt("again", "a")
    prompt["save"]["inputs"]["prompt"] = "another"
    served.run(prompt)
    pairs = read_prompt_jsonl(root / "prompt.jsonl").pairs
    assert [(pair.stem, pair.caption) for pair in pairs] == [("b", CAPTION), ("a", "another")]
    assert files(root) == [f"{kind}/{n}.png" for kind in ("images", "masks") for n in "ab"] + [
        "prompt.jsonl"
    ]


@pytest.mark.usefixtures("pack")
def test_a_grey_image_is_saved_as_a_coloured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths
    from siamese_diffusion.nodes.dataset_nodes import SiameseSavePairs

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setattr(SiameseSavePairs, "hidden", None)
    image, mask = torch.full((1, 8, 8, 1), 0.2), torch.ones(8, 8)
    SiameseSavePairs.execute(image=image, mask=mask, stem="a", folder="grey", prompt="")
    with Image.open(tmp_path / "grey" / "images" / "a.png") as file:
        assert (file.mode, file.getpixel((0, 0))) == ("RGB", (51, 51, 51))


@pytest.mark.usefixtures("pack")
def test_a_palette_is_saved_in_its_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths
    from siamese_diffusion.nodes.dataset_nodes import SiameseSavePairs

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setattr(SiameseSavePairs, "hidden", None)
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[:2, :2] = (255, 0, 0)
    colours[2:, 2:] = (1, 128, 254)
    given = {"image": torch.rand(2, 8, 8, 3), "stem": "a", "folder": "out", "prompt": "p"}
    palette = torch.from_numpy(colours)[None] / 255
    SiameseSavePairs.execute(**given, palette=palette)
    for name in ("a", "a_2"):
        saved = read_palette_mask(tmp_path / "out" / "masks" / f"{name}.png")
        assert np.array_equal(saved, colours.repeat(2, 0).repeat(2, 1))
    with pytest.raises(ValueError, match="Both of 'mask' and 'palette' connected"):
        SiameseSavePairs.execute(**given, palette=palette, mask=torch.ones(8, 8))
    with pytest.raises(ValueError, match="Neither of 'mask' and 'palette' connected"):
        SiameseSavePairs.execute(**given)


@pytest.mark.parametrize(
    ("at", "make"),
    [
        ("", Path.touch), ("images", Path.touch), ("prompt.jsonl", Path.mkdir),
        ("prompt.jsonl", os.mkfifo), ("", lambda path: path.symlink_to(path.name)),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("pack")
def test_an_output_folder_that_is_none_is_named(
    at: str, make: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is in the way and what to do, and without waiting for a pipe."""
    import folder_paths
    from siamese_diffusion.nodes.dataset_nodes import SiameseSavePairs

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setattr(SiameseSavePairs, "hidden", None)
    (place := tmp_path / "set" / at).parent.mkdir(exist_ok=True)
    make(place)
    image, mask = torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8)
    with pytest.raises(ValueError, match=r"check the path|Move it away|link that leads") as error:
        SiameseSavePairs.execute(image=image, mask=mask, stem="a", folder="set", prompt="")
    assert "set" in str(error.value) and str(error.value).isprintable()


def test_a_full_disk_leaves_no_half_pair_and_no_half_line(
    pack: SimpleNamespace, tmp_path: Path
) -> None:
    index = tmp_path / "prompt.jsonl"
    pairs = pack.pair_folder.PairFolder(tmp_path)
    noise, mask = torch.rand(64, 64, 3), torch.ones(1, 64, 64)
    with at_most(500), pytest.raises(OSError, match=r"File too large: .*images/a.png"):
        pairs.write("a", noise, mask, "")
    assert files(tmp_path) == ["masks/a.png"] and not pairs.has("a")
    with at_most(500), pytest.raises(OSError, match=r"too large: .*prompt\.jsonl"):
        pairs.write("b", torch.zeros(8, 8, 3), mask, 500 * "a")
    assert pairs.has("b") and index.read_bytes() == b""
    index.write_bytes(b'{"sour')  # of a process that was killed
    again = pack.pair_folder.PairFolder(tmp_path)
    again.write("a", noise, mask, "")
    again.list("b", "")
    assert [pair.stem for pair in read_prompt_jsonl(index).pairs] == ["a", "b"]


@linux
def test_saved_pairs_outlive_a_loss_of_power(
    pack: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        disk = DurableDisk(tmp_path, patch, lambda _: None)
        for names in (["a", "sub/b"], ["c"]):
            with pack.pair_folder.PairFolder(tmp_path / "pairs") as pairs:
                for name in names:
                    pairs.write(name, torch.rand(8, 8, 3), torch.ones(1, 8, 8), "")
    disk.close()
    kept = {path: data for path, data in disk.files().items() if "/." not in path}
    there = {path: (tmp_path / path).read_bytes() for path in kept}
    assert kept == there
    assert len(there) == 7 and len(there["pairs/prompt.jsonl"].splitlines()) == 3


def test_images_carry_the_workflow_and_masks_do_not(served: ComfyHost) -> None:
    prompt = save_prompt("with workflow")
    (saved,) = served.images(served.run(prompt))
    with Image.open(saved) as file:
        assert json.loads(file.info["prompt"])["save"] == prompt["save"]
    with Image.open(saved.parents[1] / "masks" / saved.name) as file:
        assert file.info == {}


def test_disable_metadata_is_heeded(pack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.cli_args

    hidden = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": []}})
    assert pack.pair_folder.png_metadata(hidden).chunks
    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    assert pack.pair_folder.png_metadata(hidden) is None


@pytest.mark.parametrize("folder", ["../elsewhere", "/tmp/elsewhere", "", "a/../../b", "a:b"])
def test_folders_outside_the_output_folder_are_refused(served: ComfyHost, folder: str) -> None:
    with pytest.raises(HostError, match=r"SiameseSavePairs.*expected a name or a relative path"):
        served.run(save_prompt(folder))


def test_stems_that_leave_the_folder_are_refused(served: ComfyHost) -> None:
    with pytest.raises(HostError, match=r"stem is '\.\./\.\./a'; expected a name"):
        served.run(save_prompt("stems", "../../a"))


def test_masks_and_images_that_do_not_pair_are_an_error(served: ComfyHost) -> None:
    prompt = save_prompt("counts", mask=("two", 0), batch_size=3)
    prompt["batch"] = node("EmptyImage", width=8, height=8, batch_size=2, color=0)
    prompt["two"] = node("ImageToMask", image=["batch", 0], channel="red")
    with pytest.raises(HostError, match="2 masks for 3 images"):
        served.run(prompt)


def test_a_damaged_index_is_an_error(served: ComfyHost) -> None:
    (served.output / "damaged").mkdir()
    (served.output / "damaged" / "prompt.jsonl").write_text("{\n", "utf-8")
    with pytest.raises(HostError, match=r"prompt.jsonl, line 1: not JSON"):
        served.run(save_prompt("damaged"))
