"""Images and masks that would be read wrong without a word: handled right, or refused."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from siamese_diffusion.common import pictures
from siamese_diffusion.common.pictures import read_image, read_mask, read_palette_mask
from siamese_diffusion.common.pixel_budget import PixelBudget
from siamese_diffusion.common.png_rows import has_all_rows
from support.small_datasets import lesion, load, photo, problems, save, write_list

Read = Callable[[Path], np.ndarray]


def write(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def png(array: np.ndarray, colour: int = 2, depth: int = 16) -> bytes:
    """A 16-bit PNG of that colour type, (H, W) or (H, W, C); Pillow writes grey ones only."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = array.shape[:2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + end


# Values of 8 and 12 bits in files of 16


@pytest.mark.parametrize("largest", [1, 2, 15, 100, 254, 255, 256, 300, 1023, 3000, 4095, 4096])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("read", [read_image, read_palette_mask])
def test_grey_values_that_would_be_nearly_black(
    read: Read, suffix: str, largest: int, tmp_path: Path
) -> None:
    values = np.linspace(0, largest, 64).round().astype(np.uint16).reshape(8, 8)
    path = save(tmp_path / f"x{suffix}", values)
    message = rf"x\{suffix}: .*nearly black: its largest value is {largest} of 65535.*with 8 bits"
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize("largest", [0, 1, 255, 4095])
@pytest.mark.parametrize("colour, channels", [(2, 3), (6, 4), (4, 2)])
@pytest.mark.parametrize("read", [read_image, read_mask, read_palette_mask])
def test_colours_of_16_bits_that_would_be_nearly_black(
    read: Read, colour: int, channels: int, largest: int, tmp_path: Path
) -> None:
    values = np.linspace(0, largest, 64 * channels).round().astype(np.uint16)
    values = values.reshape(8, 8, channels)
    if channels != 3:
        values[..., -1] = 65535
    (path := tmp_path / "x.png").write_bytes(png(values, colour))
    with pytest.raises(ValueError, match=r"x\.png: .*nearly black: .* save it with 8 bits"):
        read(path)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(0, 65536, 1024), np.arange(0, 16384, 256), np.arange(64) * 70,
        np.arange(64) * 16, np.arange(64) % 17 * 257, np.zeros(64),
    ],
    ids=["16 bits", "14 bits", "bright by a little", "12 bits scaled", "8 bits scaled", "black"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_true_16_bits_are_read(values: np.ndarray, suffix: str, tmp_path: Path) -> None:
    wide = values.astype(np.uint16).reshape(8, 8)
    path = save(tmp_path / f"x{suffix}", wide)
    assert np.array_equal(read_image(path)[..., 0], wide >> 8)


def test_16_bits_that_count_from_white_are_refused(tmp_path: Path) -> None:
    wide = Image.fromarray(np.arange(0, 65536, 1024).astype(np.uint16).reshape(8, 8))
    path = write(tmp_path / "x.tif", wide, tiffinfo={262: 0})
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=r"x\.tif: .*count from white.*save it inverted"):
            read(path)


# Masks kept in alpha

SHAPE = lesion()
ALL = np.full_like(SHAPE, 255)
NONE = np.zeros_like(SHAPE)
SOFT = (SHAPE // 255 * np.uint8(100)).astype(np.uint8)


@pytest.mark.parametrize(
    "grey, alpha",
    [
        (NONE, SHAPE), (NONE, 255 - SHAPE), (ALL, SHAPE), (ALL, 255 - SHAPE), (ALL, NONE),
        (NONE, SOFT), (ALL, SOFT), (255 - SHAPE, SHAPE), (SHAPE, 255 - SHAPE), (SHAPE, NONE),
        (SHAPE, SOFT),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", [".png", ".tif", ".webp"])
def test_masks_in_alpha_are_refused(
    kind: str, mode: str, grey: np.ndarray, alpha: np.ndarray, tmp_path: Path
) -> None:
    image = Image.fromarray(np.dstack([grey] * (1 if mode == "LA" else 3) + [alpha]), mode)
    path = write(tmp_path / f"x{kind}", image, **({"lossless": True, "exact": True}))
    for read in (read_mask, read_palette_mask):
        with pytest.raises(ValueError, match=r"is in its transparency.*without transparency"):
            read(path)


@pytest.mark.parametrize(
    "grey, alpha", [(SHAPE, ALL), (SHAPE, SHAPE), (NONE, ALL), (NONE, NONE), (ALL, ALL)]
)
def test_alpha_that_agrees_with_the_colours_is_read(
    grey: np.ndarray, alpha: np.ndarray, tmp_path: Path
) -> None:
    path = save(tmp_path / "x.png", np.dstack([grey, grey, grey, alpha]))
    assert np.array_equal(read_mask(path), grey > 0)
    assert np.array_equal(read_palette_mask(path)[..., 0], grey)


def test_transparent_colours_of_a_palette(tmp_path: Path) -> None:
    indexed = Image.fromarray(SHAPE // 255, "P")
    indexed.putpalette([0, 0, 0, 255, 255, 255])
    kept = write(tmp_path / "background.png", indexed, transparency=0)
    assert np.array_equal(read_mask(kept), SHAPE > 0)
    hidden = write(tmp_path / "lesion.png", indexed, transparency=1)
    for read in (read_mask, read_palette_mask):
        with pytest.raises(ValueError, match="is in its transparency"):
            read(hidden)
    wide = write(tmp_path / "wide.png", Image.fromarray(SHAPE.astype(np.uint16) * 257))
    assert np.array_equal(read_mask(wide), SHAPE > 0)
    grey = write(tmp_path / "grey.png", Image.fromarray(SHAPE), transparency=255)
    with pytest.raises(ValueError, match="is in its transparency"):
        read_mask(grey)


# Damage


def chunks(data: bytes) -> dict[str, int]:
    """Places in a PNG: in the header, the pixels and their checksums."""
    header, pixels = data.index(b"IHDR"), data.index(b"IDAT")
    length = int.from_bytes(data[pixels - 4 : pixels], "big")
    return {
        "width": header + 7, "depth": header + 12, "colour": header + 13,
        "header's checksum": header + 4 + 13, "first pixels": pixels + 12,
        "middle": pixels + 4 + length // 2, "last pixels": pixels + 4 + length - 6,
        "stream's checksum": pixels + 4 + length - 1, "checksum": pixels + 4 + length,
        "checksum's end": pixels + 4 + length + 3, "length": pixels - 1, "kind": pixels,
    }  # fmt: skip


@pytest.mark.parametrize("level", [0, 6])
@pytest.mark.parametrize("place", chunks(png(np.zeros((8, 8, 3)))))
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_png_with_one_wrong_bit(read: Read, place: str, level: int, tmp_path: Path) -> None:
    (buffer := io.BytesIO()).name = "x.png"
    Image.fromarray(photo()).save(buffer, "png", compress_level=level)
    data = bytearray(buffer.getvalue())
    data[chunks(buffer.getvalue())[place]] ^= 4
    (path := tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.png: cannot be decoded as an image"):
        read(path)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_files_that_are_cut_short(kind: str, share: float, tmp_path: Path) -> None:
    Image.fromarray(photo(0, 64, 64)).save(buffer := io.BytesIO(), kind)
    data = buffer.getvalue()
    (path := tmp_path / "x.png").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"x\.png: cannot be decoded as an image"):
        read_image(path)


@pytest.mark.parametrize("name", ["n" * 300 + ".png", "a/" * 3000 + "x.png", "folder", "no\0.png"])
def test_paths_that_cannot_be_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"cannot be (read|decoded)"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("read", [read_image, read_mask, pictures.pixel_count])
def test_a_pipe_is_not_waited_for(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    if read is pictures.pixel_count:
        assert read(tmp_path / "x.png") == 0
    else:
        with pytest.raises(ValueError, match="not a file"):
            read(tmp_path / "x.png")


# Memory


@pytest.mark.parametrize("size", [(13000, 13000), (1, 8192 * 8192 + 1), (60000, 60000)])
@pytest.mark.filterwarnings("ignore:Image size")
def test_too_many_pixels_are_refused_before_they_are_decoded(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(png(np.zeros((8, 8))))
    data[16:24] = struct.pack(">II", *size)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (path := tmp_path / "x.png").write_bytes(data)
    monkeypatch.setattr(ImageOps, "exif_transpose", None)  # decodes
    with pytest.raises(ValueError, match=r"x\.png: .*at most 67 million pixels \(8192x8192\)"):
        read_image(path)


def test_pixels_in_flight_are_bounded_and_all_are_served() -> None:
    budget, now, most = PixelBudget(100), [0], [0]
    guard, served = threading.Lock(), []

    def work(pixels: int) -> None:
        with budget.take(pixels):
            with guard:
                now[0] += min(pixels, 100)
                most[0] = max(most[0], now[0])
            os.sched_yield()
            with guard:
                now[0] -= min(pixels, 100)
                served.append(pixels)

    threads = [threading.Thread(target=work, args=(n * 7,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served) == 40 and 0 < most[0] <= 100


# Files that end early, or are much larger than their pixels


@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("rows", [0, 1, 7, 8])
def test_a_png_without_its_last_rows_is_refused(
    colour: int, channels: int, rows: int, tmp_path: Path
) -> None:
    """Its checksums are right: whoever wrote it stopped too soon. Pillow shows them black."""
    pixels = np.full((8, 6, channels), 60_000, np.uint16)
    whole = png(pixels, colour)
    length = whole.index(b"IDAT") - 4
    header = png(pixels, colour)[:length]
    (tmp_path / "x.png").write_bytes(header + png(pixels[:rows], colour)[length:])
    if rows == 8:
        assert (read_image(tmp_path / "x.png") > 0).all()
        return
    with pytest.raises(ValueError, match=r"x\.png: .*ends before its last row|truncated"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 8), (9, 21)])
def test_an_interlaced_png_is_whole_with_all_its_passes(size: tuple[int, int]) -> None:
    """Rows of 3 bytes a pixel: as the specification of PNG says which pixel is in which pass."""
    width, height = size
    numbers = [
        [1, 6, 4, 6, 2, 6, 4, 6], [7] * 8, [5, 6] * 4, [7] * 8,
        [3, 6, 4, 6, 3, 6, 4, 6], [7] * 8, [5, 6] * 4, [7] * 8,
    ]  # fmt: skip
    tiled = np.tile(np.array(numbers), (3, 3))[:height, :width]
    data = b""
    for number in range(1, 8):
        for row in tiled == number:
            data += b"\0" + b"\x10" * (3 * int(row.sum())) if row.any() else b""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    for missing in (0, 1):
        content = zlib.compress(data[: len(data) - missing])
        file = b"\x89PNG\r\n\x1a\n"
        for kind, part in ((b"IHDR", header), (b"IDAT", content)):
            file += struct.pack(">I", len(part)) + kind + part + bytes(4)
        assert has_all_rows(io.BytesIO(file)) == (not missing)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_a_file_much_larger_than_its_pixels_is_refused(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / f"x{suffix}", photo())
    read_image(path)
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + (5 << 20))
    monkeypatch.setattr(pictures, "OTHER_BYTES", 4 << 20)
    with pytest.raises(
        ValueError, match=rf"x\{suffix}: .*5 MiB for .* at most 4 MiB are read; save"
    ):
        read_image(path)


def test_signed_pixels_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", Image.fromarray(photo()[..., 0]), tiffinfo={339: (2,)})
    with pytest.raises(ValueError, match=r"x\.tif: .*signed numbers; save it with values from 0"):
        read_image(path)


def tiff(width: int, height: int, parts: list[bytes], tags: dict[int, tuple[int, ...]]) -> bytes:
    """A TIFF of 8-bit grey pixels with these parts (strips); `tags` of 16 bits add or replace."""
    places = [8 + sum(map(len, parts[:number])) for number in range(len(parts))]
    values = {
        256: (width,), 257: (height,), 258: (8,), 259: (1,), 262: (1,), 273: tuple(places),
        277: (1,), 278: (height,), 279: tuple(map(len, parts)), **tags,
    }  # fmt: skip
    start = 8 + sum(map(len, parts))
    behind = start + 2 + 12 * len(values) + 4
    entries, more = b"", b""
    for tag, found in sorted(values.items()):
        data = struct.pack(f"<{len(found)}H", *found)
        if len(data) > 4:
            data, more = struct.pack("<I", behind + len(more)), more + data
        entries += struct.pack("<HHI", tag, 3, len(found)) + data.ljust(4, b"\0")
    directory = struct.pack("<H", len(values)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + b"".join(parts) + directory + more


ROWS = bytes([255]) * 8 * 4  # half of 8x8 pixels
HALVES: dict[int, tuple[int, ...]] = {278: (4,)}  # rows of a part
PLANES: dict[int, tuple[int, ...]] = {258: (8,) * 3, 262: (2,), 277: (3,), 284: (2,)}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tiff(8, 8, [ROWS], HALVES), "ends before its last row"),
        (tiff(8, 8, [ROWS], {**HALVES, 274: (6,)}), "ends before its last row"),
        (tiff(8, 8, [ROWS * 2] * 2, PLANES), "ends before its last row"),
        (tiff(8, 8, [ROWS * 4] * 3, {**PLANES, 258: (16,) * 3}), "separate planes; save it with"),
        (tiff(8, 8, [ROWS * 2] * 3, {**PLANES, 339: (1, 1, 2)}), "cannot be decoded"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_mask, read_palette_mask])
def test_a_tiff_that_pillow_shows_half_black_or_wrong_is_refused(
    read: Read, data: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(ValueError, match=rf"x\.tif: .*{says}"):
        read(tmp_path / "x.tif")


@pytest.mark.parametrize(
    "data",
    [
        tiff(8, 8, [ROWS] * 2, HALVES),
        tiff(8, 6, [ROWS] * 2, {278: (4,), 274: (6,)}),
        tiff(8, 8, [ROWS * 2] * 3, PLANES),
    ],
)
def test_a_tiff_with_all_its_parts_is_read(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(data)
    assert (read_image(tmp_path / "x.tif") == 255).all()


# The one report


def test_all_of_it_is_in_one_report(tmp_path: Path) -> None:
    write_list(tmp_path, [(32, 32)] * 5)
    save(tmp_path / "images/0.png", photo()[..., 0].astype(np.uint16))
    save(tmp_path / "masks/1.png", np.dstack([NONE, NONE, NONE, SHAPE]))
    data = bytearray((tmp_path / "images/2.png").read_bytes())
    data[data.index(b"IEND") - 5] ^= 1  # the checksum of the pixels
    (tmp_path / "images/2.png").write_bytes(data)
    (tmp_path / "masks/3.png").unlink()
    (tmp_path / "masks/3.png").symlink_to("masks/3.png")
    report = problems(tmp_path)
    assert "4 problems in this dataset; nothing was started." in report
    for line in (
        "line 1: image", "line 2: mask", "line 3: image", "line 4: mask", "nearly black",
        "is in its transparency", "checksum",
    ):  # fmt: skip
        assert line in report
    assert len(load(write_list(tmp_path / "good", [(32, 32)] * 2)).pairs) == 2
