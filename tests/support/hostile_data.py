"""Datasets that are wrong in one place each: a damage, and what the report must say of it."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from support.small_datasets import lesion, photo, save, write_list

LINE = {"source": "masks/1.png", "target": "images/1.png", "prompt": "a polyp"}
DEEP = 100_000
Damage = Callable[[Path], object]


class Case(NamedTuple):
    """damage: of a good dataset in a folder. says: a part of the report. flags: of the trainer."""

    damage: Damage
    says: str
    flags: dict[str, str] = {}  # noqa: RUF012 - never changed


def lines() -> Iterator[tuple[str, Case]]:
    """The second of three lines of prompt.jsonl."""
    for name, text, says in (
        ("no JSON", "x", "line 2: not JSON"),
        ("half", '{"source": ', "line 2: not JSON"),
        ("a list", "[1]", "is no JSON object; expected {"),
        ("a number", "1", "is no JSON object; expected {"),
        ("a text", '"x"', "is no JSON object; expected {"),
        ("nothing", "null", "is no JSON object; expected {"),
        ("an empty object", "{}", "the line has nothing"),
        ("deep lists", "[" * DEEP, "line 2: not JSON"),
        ("deep objects", '{"a":' * DEEP, "line 2: not JSON"),
        ("an endless number", "9" * 5000, "line 2: not JSON"),
        ("an endless text", json.dumps("x" * (2 << 20)), "line 2: longer than"),
        ("two objects", f"{json.dumps(LINE)} {json.dumps(LINE)}", "line 2: not JSON"),
        ("single quotes", str(LINE), "line 2: not JSON"),
        ("a comment", "// x", "line 2: not JSON"),
    ):
        yield f"line: {name}", Case(second_line(text), says)
    wrong: list[Any] = [None, 1, 1.5, True, [], {}, [[[[]]]]]
    for key in ("source", "target", "prompt"):
        for value in wrong:
            text = json.dumps({**LINE, key: value})
            yield f"{key}: {value}", Case(second_line(text), f'line 2: "{key}" must be a string')
    for value in (*wrong[4:6], 1.5, float("nan")):
        yield f"group: {value}", Case(changed_line(group=value), 'line 2: "group" must be')
    for key in ("prompt", "group"):
        for half in ("\ud800", "a\udcff", "\udfff\ud800"):
            yield f"{key}: {half!a}", Case(changed_line(**{key: half}), f'line 2: "{key}" is')


def paths() -> Iterator[tuple[str, Case]]:
    """Where an image or a mask of the second line is."""
    for value in (
        "", ".", "..", "../..", "/", "images", "images/", "nowhere.png", "/nowhere/x.png",
        "~/x.png",
        "images\\1.png", "C:\\images\\1.png", "http://127.0.0.1/x.png", "file:///etc/passwd",
        "/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/environ", "/proc/self/mem",
        "images/1.png\0", "images/\ud800.png", "images/\udce9.png", "n" * 300,
        "a/" * 3000 + "x.png",
        "images/1.png/x.png", "\x1b[2J.png", "a\nb.png", "\u202egnp.x", "prompt.jsonl",
        "images/*.png",
    ):  # fmt: skip
        for key, role in (("target", "image"), ("source", "mask")):
            yield (
                f"{key} at {ascii(value)[:40]}",
                Case(changed_line(**{key: value}), f"line 2: {role}"),
            )


def lists() -> Iterator[tuple[str, Case]]:
    """All of prompt.jsonl."""
    text = json.dumps(LINE).encode()
    for name, data, says in (
        ("empty", b"", "empty"),
        ("blank", b" \n\n\t\n", "empty"),
        ("of bytes", b"\xff\xfe\x00", "not UTF-8"),
        ("of UTF-16", text.decode().encode("utf-16"), "save it as UTF-8"),
        ("of Latin-1", text.replace(b"polyp", b"p\xf6lyp"), "save it as UTF-8"),
        ("of nulls", bytes(1000), "line 1: not JSON"),
        ("with a mark in it", text + b"\n\xef\xbb\xbf" + text, "line 2: not JSON"),
        ("a picture", png(photo()), "not UTF-8"),
        ("a JSON array", b"[" + text + b"]", "is no JSON object; expected {"),
        ("over several lines", json.dumps(LINE, indent=1).encode(), "line 1: not JSON"),
    ):
        yield f"list: {name}", Case(replaced("prompt.jsonl", holding(data)), says)
    yield "list: 3 GB of nothing", Case(sparse("prompt.jsonl"), "line 1: longer than")
    yield "list: no file", Case(lambda f: (f / "prompt.jsonl").unlink(), "no such file")
    yield "list: a pipe", Case(replaced("prompt.jsonl", os.mkfifo), "no such file")
    yield "list: a folder", Case(replaced("prompt.jsonl", os.mkdir), "a folder")
    yield (
        "list: a loop",
        Case(
            replaced("prompt.jsonl", lambda p: Path(p).symlink_to("prompt.jsonl")), "no such file"
        ),
    )


def pictures() -> Iterator[tuple[str, Case]]:
    """The second image, and the second mask."""
    for name, data in PICTURES.items():
        for role in ("image", "mask"):
            write = replaced(f"{role}s/1.png", holding(data))
            yield f"{role}: {name}", Case(write, f"line 2: {role}")
    for name, array in MASKS.items():
        write = replaced("masks/1.png", showing(array))
        yield f"mask: {name}", Case(write, "line 2: mask")
    for name, array in (
        ("many colours", photo()),
        ("one colour", photo()[:1, :1].repeat(32, 0).repeat(32, 1)),
    ):
        write = all_of("masks", array)
        yield f"palette: {name}", Case(write, "colour", {"mask_mode": "palette"})
    classes = np.dstack([lesion() // 255] * 3)
    yield (
        "palette: class numbers",
        Case(all_of("masks", classes), "class numbers", {"mask_mode": "palette"}),
    )
    for bits in (13, 14):
        values = np.linspace(0, 2**bits - 1, 32 * 32).astype(np.uint16).reshape(32, 32)
        dark = all_of("images", values)
        yield f"images: all of {bits} bits in 16", Case(dark, "brightest value of all 3 images is")
    yield "masks: all empty", Case(all_of("masks", np.zeros((32, 32), np.uint8)), "masks are empty")


def tables() -> Iterator[tuple[str, Case]]:
    """A dataset TOML."""
    folders = 'image_dir = "images"\nconditioning_data_dir = "masks"\n'
    good = f"[[datasets]]\n[[datasets.subsets]]\n{folders}"
    for name, text, says in (
        ("empty", "", "expected [[datasets]]"),
        ("no TOML", "x", "not TOML"),
        ("deep arrays", f"x = {'[' * DEEP}{']' * DEEP}", "not TOML"),
        ("deep tables", f"x = {'{a = ' * DEEP}1{'}' * DEEP}", "not TOML"),
        ("deep keys", f"[general]\nbatch_size.{'a.' * 150}a = 1\n{good}", "batch_size is"),
        ("deeper keys", f"{'a.' * 100_000}a = 1", "over 200 dots"),
        ("a long number", f"x = {'9' * 5000}", "not TOML"),
        ("a null byte", "x = 1\0", "not TOML"),
        ("one key twice", "x = 1\nx = 2", "not TOML"),
        ("Windows paths", good.replace("images", "C:\\images"), "single quotes"),
        ("unknown tables", f"[evil]\nx = 1\n{good}", "evil: unknown"),
        ("a long name", f"{'n' * 100_000} = 1\n{good}", "unknown"),
        ("datasets are a number", "datasets = 1", "expected [[datasets]]"),
        ("datasets are texts", 'datasets = ["a"]', "expected [[datasets]]"),
        ("no subsets", "[[datasets]]\nresolution = 64", "expected [[datasets.subsets]]"),
        ("general is a number", f"general = 1\n{good}", "[general]: is 1; expected a table"),
        ("no folder", good.replace('image_dir = "images"\n', ""), "image_dir is missing"),
        ("folder is a number", good.replace('"images"', "1"), "image_dir is 1"),
        ("folder is not there", good.replace('"images"', '"nowhere"'), "no such folder"),
        ("folder of null", good.replace('"images"', '"a\\u0000b"'), "no such folder"),
        ("folder of a long name", good.replace('"images"', f'"{"n" * 300}"'), "no such folder"),
        ("folder that is a file", good.replace('"images"', '"prompt.jsonl"'), "no such folder"),
        *(
            (f"{key} = {value[:12]}", f"[general]\n{key} = {value}\n{good}", key)
            for key, value in (
                ("resolution", "0"), ("resolution", "-64"), ("resolution", "63"), ("resolution",
                "inf"),
                ("resolution", "[64]"), ("resolution", "[64, 64, 64]"), ("resolution", '"64"'),
                ("resolution", "true"), ("resolution", "800000000"), ("batch_size", "0"),
                ("batch_size", "-1"), ("batch_size", "1.5"), ("batch_size", "1000000000000"),
                ("batch_size", "nan"), ("validation_split", "nan"), ("validation_split", "inf"),
                ("validation_split", "1.0"), ("validation_split", "-0.1"), ("flip_aug", "1"),
                ("caption_dropout_rate", "2.0"), ("caption_dropout_rate", "nan"),
                ("num_repeats", "0"), ("num_repeats", "-1"), ("num_repeats", "1000000000000"),
                ("num_repeats", "1e3"), ("enable_bucket", '"true"'), ("caption_extension", '"txt"'),
                ("caption_prefix", "1"), ("color_aug", "true"), ("random_crop", "true"),
            )
        ),
        ("a bucket without end",
        f"[general]\nenable_bucket = true\nmax_bucket_reso = 1000000000\n{good}",
         "max_bucket_reso"),
    ):  # fmt: skip
        yield f"TOML: {name}", Case(toml(text), says, {"dataset_config": "x.toml"})
    yield "TOML: not UTF-8", Case(toml(b"\xff\xfe"), "not UTF-8", {"dataset_config": "x.toml"})
    yield (
        "TOML: 3 GB of nothing",
        Case(sparse("x.toml"), "larger than", {"dataset_config": "x.toml"}),
    )


def second_line(text: str) -> Damage:
    def write(folder: Path) -> None:
        path = folder / "prompt.jsonl"
        rows = path.read_text("utf-8").split("\n")
        path.write_text("\n".join([rows[0], text, *rows[2:]]), "utf-8")

    return write


def changed_line(**values: Any) -> Damage:
    return second_line(json.dumps({**LINE, **values}))


def replaced(name: str, write: Callable[[str], object]) -> Damage:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        write(str(folder / name))

    return change


def holding(data: bytes) -> Callable[[str], object]:
    return lambda path: Path(path).write_bytes(data)


def showing(array: np.ndarray) -> Callable[[str], object]:
    return lambda path: save(Path(path), array)


def sparse(name: str) -> Damage:
    """A file of zeros that takes no room on the disk."""

    def write(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(3 << 30)

    return write


def all_of(kind: str, array: np.ndarray) -> Damage:
    """All three images, or masks."""

    def write(folder: Path) -> None:
        for number in range(3):
            save(folder / f"{kind}/{number}.png", array)

    return write


def toml(text: str | bytes) -> Damage:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "x.toml").write_bytes(data)


def picture(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    (image or Image.fromarray(photo())).save(buffer := BytesIO(), kind, **options)
    return buffer.getvalue()


def png(array: np.ndarray) -> bytes:
    return picture("png", Image.fromarray(array))


def made_png(header: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of this header: width, height, depth, colour type, and three zeros."""
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def many_frames(count: int) -> bytes:
    """A TIFF that repeats its directory."""
    data = bytearray(picture("tiff"))
    (start,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[start : start + 2])
    directory = bytes(data[start : start + 2 + 12 * entries])
    place = start + len(directory)
    for _ in range(count):
        data[place : place + 4] = struct.pack("<I", len(data))
        data += directory + bytes(4)
        place = len(data) - 4
    return bytes(data)


def many_scans(count: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    data = picture("jpeg", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def tiff_tag(tag: int, value: int, kind: int = 4) -> bytes:
    data = bytearray(picture("tiff"))
    (start,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[start : start + 2])
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack("<H", data[place : place + 2])[0] == tag:
            data[place + 2 : place + 12] = struct.pack("<HII", kind, 1, value)
    return bytes(data)


ROWS = (b"IDAT", zlib.compress(b"".join(b"\0" + bytes(range(8)) for _ in range(8))))
SQUARE = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
INDEXED = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
BOMB = zlib.compress(bytes(200 << 20), 1)
PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file\nshowpage\n"
PICTURES = {
    "empty": b"",
    "text": b"not a picture",
    "PostScript": PROGRAM,
    "PostScript in DOS": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32,
    len(PROGRAM)) + bytes(20) + PROGRAM,
    "PDF": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "GIF": picture("gif"),
    "ICO": picture("ico"),
    "PPM": picture("ppm"),
    "TGA": picture("tga"),
    "PCX": picture("pcx"),
    "SGI": picture("sgi"),
    "IM": picture("im"),
    "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    "XPM": b'/* XPM */\nstatic char *x[] = {"8 8 1 1", "a c #000000"};\n',
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "FPX": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512),
    "FITS": b"SIMPLE  =                    T" + bytes(2850),
    "pickle": b"\x80\x02cos\nsystem\nq\x00.",
    "zip": b"PK\x03\x04" + bytes(100),
    "half a PNG": png(photo())[:1500],
    "half a JPEG": picture("jpeg")[:500],
    "half a WebP": picture("webp", lossless=True)[:1000],
    "half a TIFF": picture("tiff")[:1000],
    "half a BMP": picture("bmp")[:1000],
    "no end": png(photo())[:-12],
    "two pictures": picture("tiff", save_all=True, append_images=[Image.fromarray(photo())]),
    "thousands of pictures": many_frames(20_000),
    "an animation": picture("png", save_all=True, append_images=[Image.fromarray(photo(1))]),
    "a film": picture("webp", save_all=True, append_images=[Image.fromarray(photo(1))]),
    "scans without end": many_scans(300),
    "too wide": made_png(struct.pack(">IIBBBBB", 1 << 30, 1, 8, 0, 0, 0, 0), ROWS),
    "no pixels": made_png(struct.pack(">IIBBBBB", 0, 8, 8, 0, 0, 0, 0), ROWS),
    "negative BMP": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 8, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
    "3 bits": made_png(struct.pack(">IIBBBBB", 8, 8, 3, 0, 0, 0, 0), ROWS),
    "no pixel data": made_png(SQUARE),
    "colours without palette": made_png(INDEXED, ROWS),
    "colours beyond the palette": made_png(INDEXED, (b"PLTE", bytes(6)), ROWS),
    "text bomb": made_png(SQUARE, (b"zTXt", b"a\0\0" + BOMB), ROWS),
    "profile bomb": made_png(SQUARE, (b"iCCP", b"a\0\0" + BOMB), ROWS),
    "TIFF of 4 billion columns": tiff_tag(256, 0xFFFFFFFF),
    "TIFF of no columns": tiff_tag(256, 0),
    "TIFF beyond its end": tiff_tag(273, 0xFFFFFF00),
    "TIFF of unknown compression": tiff_tag(259, 65000, 3),
    "TIFF as LZW": tiff_tag(259, 5, 3),
    "TIFF of 60000 channels": tiff_tag(277, 60000, 3),
    "32-bit floats": picture("tiff", Image.new("F", (32, 32), 0.5)),
    "32-bit integers": picture("tiff", Image.new("I", (32, 32), 70000)),
    "12 bits": picture("tiff", Image.fromarray(np.full((32, 32), 4001, np.uint16))),
}  # fmt: skip
MASKS = {
    "of zeros and ones": lesion() // 255,
    "of class numbers": lesion() // 255 * 5,
    "grey": lesion() // 255 * 127,
    "of another size": lesion(32, 40),
    "turned": lesion(40, 32),
    "in its alpha": np.dstack([np.zeros_like(lesion()), lesion()]),
    "hidden by its alpha": np.dstack([lesion(), 255 - lesion()]),
    "of 16 bits, dark": (lesion() // 255).astype(np.uint16),
}


def good(folder: Path) -> Path:
    """Three pairs, as a list and as two folders."""
    return write_list(folder, [(32, 32)] * 3)


CASES = {
    name: case for part in (lines(), paths(), lists(), pictures(), tables()) for name, case in part
}
