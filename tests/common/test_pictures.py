"""Images and masks of every format and depth, and masks with a colour per class."""

from __future__ import annotations

import ast
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from siamese_diffusion.common.pictures import read_image, read_mask, read_palette_mask
from siamese_diffusion.training.train_siamese import main
from support.paths import ROOT
from support.small_datasets import (
    CPU,
    lesion,
    load,
    photo,
    prepared,
    problems,
    save,
    write_list,
    write_palette_masks,
)
from support.small_runs import command

# Pictures and masks of every kind


def png16(array: np.ndarray) -> bytes:
    """A 16-bit grey (H, W) or RGB (H, W, 3) PNG; Pillow writes no 16-bit colours."""
    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 16, 2 if array.ndim == 3 else 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def tiff16(array: np.ndarray) -> bytes:
    """An uncompressed little-endian 16-bit grey or RGB TIFF."""
    height, width = array.shape[:2]
    pixels = array.astype("<u2").tobytes()
    channels = array.size // (height * width)
    bits_at = 8 + len(pixels)
    tags = [(256, width), (257, height), (258, 16 if channels == 1 else bits_at), (259, 1)]
    tags += [(262, 1 if channels == 1 else 2), (273, 8), (277, channels), (278, height)]
    tags += [(279, len(pixels))]
    counts = {258: channels}
    entries = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, counts.get(tag, 1), value)
        for tag, value in tags
    )
    directory = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    bits = struct.pack("<3H", 16, 16, 16)
    return b"II*\0" + struct.pack("<I", bits_at + 6) + pixels + bits + directory


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_formats_of_8_bits(suffix: str, tmp_path: Path) -> None:
    image = np.repeat(np.repeat(photo(0, 4, 4), 16, 0), 16, 1)
    for array in (image, image[..., 0]):
        Image.fromarray(array).save(tmp_path / f"x{suffix}", quality=95, lossless=True)
        read = read_image(tmp_path / f"x{suffix}")
        expected = array if array.ndim == 3 else np.repeat(array[..., None], 3, 2)
        assert read.shape == expected.shape and read.dtype == np.uint8
        difference = np.abs(read.astype(int) - expected)
        assert difference.mean() < 12 if suffix == ".jpg" else difference.max() == 0


@pytest.mark.parametrize("write", [png16, tiff16])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_formats_of_16_bits(
    write: Callable[[np.ndarray], bytes], channels: tuple[int, ...], tmp_path: Path
) -> None:
    wide = np.random.default_rng(0).integers(0, 65536, (6, 5, *channels)).astype(np.uint16)
    wide[0, 0], wide[0, 1], wide[0, 2], wide[0, 3] = 0, 65535, 32767, 32768
    path = tmp_path / "wide picture"
    path.write_bytes(write(wide))
    expected = wide >> 8 if channels else np.repeat((wide >> 8)[..., None], 3, 2)
    assert np.array_equal(read_image(path), expected)
    assert read_mask(path)[0, :4].tolist() == [False, True, False, True]
    if not channels:
        assert np.array_equal(read_mask(path), wide > 32767)


def test_transparency_palettes_and_bilevel(tmp_path: Path) -> None:
    image = photo()
    alpha = np.dstack([image, lesion()])
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", alpha)), image)
    indexed = Image.fromarray(lesion() // 255, "P")
    indexed.putpalette([0, 0, 0, 200, 220, 240])
    indexed.save(tmp_path / "p.png")
    assert np.unique(read_image(tmp_path / "p.png")[lesion() > 0], axis=0).tolist() == [
        [200, 220, 240]
    ]
    assert np.array_equal(read_mask(tmp_path / "p.png"), lesion() > 0)
    assert np.array_equal(read_mask(save(tmp_path / "1.png", lesion() > 0)), lesion() > 0)


def test_exif_orientation_turns_image_and_mask(tmp_path: Path) -> None:
    upright = photo(0, 16, 8)
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned clockwise
    for stored in (upright, upright[..., 0]):
        Image.fromarray(np.rot90(stored).copy()).save(tmp_path / "x.png", exif=exif)
        read = read_image(tmp_path / "x.png")
        assert np.array_equal(
            read, stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, 2)
        )
    assert np.array_equal(read_mask(tmp_path / "x.png"), upright[..., 0] > 127)


def test_pictures_of_unknown_meaning_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "float.tif", np.ones((4, 4), np.float32))
    first = Image.fromarray(lesion())
    first.save(tmp_path / "stack.tif", save_all=True, append_images=[first, first])
    with pytest.raises(ValueError, match=r"float\.tif.*type F.*8 or 16 bits"):
        read_image(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"stack\.tif.*holds 3 images"):
        read_mask(tmp_path / "stack.tif")


def test_masks_are_true_above_half_of_their_range(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_mask(save(tmp_path / "grey.png", grey)), grey > 127)


def test_masks_of_0_and_1_are_refused_each_in_one_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine of ten would be trained as without a lesion."""
    index = write_list(tmp_path, [(32, 32)] * 10) / "prompt.jsonl"
    for number in range(9):
        save(tmp_path / f"masks/{number}.png", lesion() // 255)
    (base := tmp_path / "base.ckpt").touch()  # read after the pairs
    assert main(command(base, index, tmp_path / "out")) == 2
    report = capsys.readouterr().err
    assert "9 problems in this dataset; nothing was started." in report
    for number in range(9):
        assert (
            f"line {number + 1}: mask {tmp_path}/masks/{number}.png: the mask's brightest value "
            "is 1 of 255" in report
        )
    assert report.count("Multiply by 255, or paint the lesion white") == 9
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_any_lesion_is_refused(tmp_path: Path) -> None:
    write_list(tmp_path, [(32, 32)] * 2)
    save(tmp_path / "masks/0.png", lesion() * 0)
    note = f"1 of 2 masks are empty (black); the first: {tmp_path}/masks/0.png"
    assert load(tmp_path).notes == (note,)
    save(tmp_path / "masks/1.png", lesion() * 0)
    assert "all 2 masks are empty" in problems(tmp_path)


# Masks with a colour per class


def test_palette_masks_keep_their_colours(tmp_path: Path) -> None:
    dataset = load(write_palette_masks(tmp_path), mask_mode="palette")
    classes = {"#000000": "background", "#008000": "class 1", "#800000": "class 2"}
    assert dataset.mask_classes() == classes
    assert dataset.infos[dataset.pairs[0]].coverage == pytest.approx((lesion() > 0).mean())
    data = prepared(dataset)
    assert (data.mask_channels, data.mask_classes) == (3, classes)
    mask = data.batch([0, 1], seed=0, step=0, caption_dropout=0).to(CPU).mask
    assert (mask.shape, mask.dtype) == ((2, 3, 32, 32), torch.float32)
    assert set(mask.unique().tolist()) == {0.0, np.float32(128 / 255)}
    colours = (mask[1].permute(1, 2, 0) * 255).round().byte().numpy()
    nearest = Image.fromarray(read_palette_mask(dataset.pairs[1].mask)).resize((32, 32), 0)
    assert np.array_equal(colours, np.asarray(nearest))


def test_binary_masks_have_one_class(tmp_path: Path) -> None:
    data = prepared(load(write_list(tmp_path, [(32, 32)])))
    assert (data.mask_channels, data.mask_classes) == (1, {"255": "lesion"})


def test_palette_masks_that_are_none(tmp_path: Path) -> None:
    folder = write_palette_masks(tmp_path)
    save(folder / "masks/1.png", np.arange(48 * 32).reshape(32, 48).astype(np.uint8))
    report = problems(folder, mask_mode="palette")
    assert "line 2: mask" in report and "colours; expected one a class" in report
    for number, (width, value) in enumerate([(32, 1), (48, 2)]):
        save(folder / f"masks/{number}.png", lesion(width) // 255 * np.uint8(value))
    assert "brightest value is 2 of 255" in problems(folder, mask_mode="palette")
    for number, width in enumerate((32, 48)):
        save(folder / f"masks/{number}.png", lesion(width) * 0)
    assert "all masks have one colour, #000000" in problems(folder, mask_mode="palette")


# Decoders


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(run) print\n%%EOF\n"


@pytest.mark.parametrize("read", [read_image, read_mask, read_palette_mask])
def test_a_postscript_program_called_png_never_reaches_its_interpreter(
    read: Callable[[Path], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def interpreter(*arguments: object, **_: object) -> object:
        started.append(arguments)
        return Image.new("RGB", (8, 8)).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", interpreter)
    path = tmp_path / "mask.png"
    path.write_bytes(EPS)
    with pytest.raises(ValueError, match=r"mask\.png: cannot be decoded as an image \(PNG, JPEG"):
        read(path)
    assert not started
    with Image.open(path) as image:  # without the fixed list it is decoded by its content
        image.load()
    assert started


@pytest.mark.parametrize("kind", ["gif", "ico", "ppm", "tga"])
def test_formats_that_are_not_on_the_list_are_refused_whatever_they_are_called(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (16, 16)).save(path, format=kind)
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(path)


def test_every_place_that_opens_an_image_names_the_formats() -> None:
    rooms = ("common", "models", "nodes", "training", "evaluation", "tools", "benchmarks")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"
        if "formats" not in [keyword.arg for keyword in node.keywords]
    ]
    assert len(files) > 100
    assert not bare
