"""Reading image and mask files of any common format, for nodes and training alike."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .png_rows import has_all_rows
from .tar_members import in_tar, open_binary
from .text import one_line, shortened
from .tiff_tags import tiff_problem

Size = tuple[int, int]  # (width, height) in pixels

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
# Whatever a file is called, no other decoder may try it: that of PostScript starts Ghostscript,
# which would run the program that such a file is.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 8192 * 8192  # of one file
TOO_LARGE = (
    f"at most {MAX_PIXELS / 1e6:.0f} million pixels (8192x8192) are read: scale it down, or cut it "
    "into tiles"
)
# Of a file: for each pixel twice what any format takes, and room for profiles and workflows.
BYTES_PER_PIXEL, OTHER_BYTES = 16, 64 << 20
MOST_FRAMES = 100  # of a TIFF are counted
MOST_SCANS = 200  # of a progressive JPEG; 10 are usual, and previews in it have their own
# Of 65535: the largest value of 12-bit data, and a little more. Shown as 16 bits that is 16 of 255.
NEARLY_BLACK = 4351
SCALED = (16, 257)  # factors that take 12 and 8 bits to 16


def read_image(path: Path) -> np.ndarray:
    """RGB image (H, W, 3), uint8, without alpha. Raises ValueError naming the file.

    Of 16 bits the high byte is kept. A 16-bit file whose largest value is at most 4351 holds data
    of 8 or 12 bits that nobody has scaled, and is refused: it would be nearly black. True 16-bit
    data have brighter pixels, or, where 8 or 12 bits were scaled, values that are all multiples of
    257 or 16: these are read however dark they are, and so is a black file.
    """
    return _read(path, _colours)


def pixel_count(path: Path) -> int:
    """Width times height as the file's header says; 0 for a file whose reading will fail."""
    try:
        with _open(path) as image:
            return int(image.width * image.height)
    except Exception:  # whatever it is, reading the file reports it
        return 0


def read_mask(path: Path) -> np.ndarray:
    """Binary mask (H, W), bool: true above half of the file's range, 127 of 255 as published.

    A black file is an empty mask. Raises ValueError with the name of a file that cannot be
    decoded, that is neither black nor above half anywhere, such as a mask of zeros and ones, or
    whose transparency (alpha) says something else than its colours.
    """
    grey = _read(path, _mask_grey)
    largest = int(np.iinfo(grey.dtype).max)
    half, brightest = largest // 2, int(grey.max(initial=0))
    if 0 < brightest <= half:
        raise ValueError(
            f"{one_line(str(path))}: the mask's brightest value is {brightest} of {largest}; "
            f"expected a lesion above {half}, or a black image for an empty mask. Multiply by "
            f"{largest // brightest}, or paint the lesion white."
        )
    return grey > half


def mask_reader(mask_mode: str) -> Callable[[Path], np.ndarray]:
    """What reads the masks of a dataset: "binary" or "palette"."""
    return read_mask if mask_mode == "binary" else read_palette_mask


def read_palette_mask(path: Path) -> np.ndarray:
    """A mask's colours (H, W, 3), uint8, as a viewer shows them. Raises ValueError."""
    return _read(path, _mask_colours)


@dataclass(frozen=True)
class _Decoded:
    """An upright image, and whether its file has 16 bits: Pillow keeps 8 of them for colours."""

    image: Image.Image
    is_png: bool
    is_wide: bool


def _read(path: Path, convert: Callable[[_Decoded], np.ndarray]) -> np.ndarray:
    """Decode a file, rotated as its EXIF data say. Raises ValueError with the file's name."""
    name = one_line(str(path))
    try:
        _check_file(path)
        with _open(path) as image:
            _check_single(image)
            if image.format in ("JPEG", "MPO"):
                _check_scans(path)
            is_png, is_wide = image.format == "PNG", _is_wide(image)
            if image.format == "TIFF" and (problem := tiff_problem(image, is_wide)):
                raise _FindingError(problem)
            if image.mode == "P":
                _check_palette(image)
            if is_png:
                _check_rows(path, image)
            return convert(_Decoded(ImageOps.exif_transpose(image), is_png, is_wide))
    except FileNotFoundError:
        raise ValueError(f"{name}: no such file; check the path") from None
    except UnidentifiedImageError:
        known = f"({', '.join(FORMATS)}); save it again as one of these"
        raise ValueError(f"{name}: cannot be decoded as an image {known}") from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, of 179 million pixels
        raise ValueError(f"{name}: too large; {TOO_LARGE}") from error
    except MemoryError:
        raise ValueError(f"{name}: out of memory; scale the image down") from None
    except UnicodeEncodeError:
        raise ValueError(f"{name}: no such file; the name is no text. Rename it") from None
    except _FindingError as error:
        raise ValueError(f"{name}: cannot be decoded as an image ({error})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            advice = "check the path and its permissions"
            raise ValueError(f"{name}: cannot be read ({error.strerror}); {advice}") from error
        found = getattr(error, "strerror", None) or str(error)
        reason = f"({shortened(found)}); copy or save it again"
        raise ValueError(f"{name}: cannot be decoded as an image {reason}") from error


class _FindingError(ValueError):
    """What is wrong with a file that Pillow would read, and what to do."""


def _open(path: Path) -> Image.Image:
    """An image whose pixels are not decoded yet. Raises what Pillow raises."""
    if in_tar(path):
        return Image.open(open_binary(path), formats=FORMATS)
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise _FindingError("it is a folder or a device, not a file; check the path")
    return Image.open(path, formats=FORMATS)


def _check_file(path: Path) -> None:
    """Raise an error where a file is too large, or a PNG's checksums are wrong.

    Checking and decoding take as much memory as the file, and decoding does not look at checksums.
    """
    with _open(path) as image:
        _check_size(image)
        size, most = _byte_count(path), BYTES_PER_PIXEL * image.width * image.height + OTHER_BYTES
        if size > most:
            raise _FindingError(
                f"{size >> 20} MiB for {image.width}x{image.height} pixels, of which at most "
                f"{most >> 20} MiB are read; save it again without what else is in it"
            )
        if image.format == "PNG":
            try:
                image.verify()
            except SyntaxError as error:
                raise _FindingError(f"damaged: {error}; copy or save the file again") from error


def _byte_count(path: Path) -> int:
    if in_tar(path):
        with open_binary(path) as file:
            return file.seek(0, 2)
    return path.stat().st_size


def _check_rows(path: Path, image: Image.Image) -> None:
    """Raise an error for a PNG that ends before its last row, which Pillow then leaves black."""
    image.load()
    last = image.crop((0, image.height - 1, image.width, image.height))
    if last.getbbox() and not image.info.get("interlace"):
        return  # to decompress it again would take time
    with open_binary(path) as file:
        if not has_all_rows(file):
            raise _FindingError("damaged: it ends before its last row; copy or save it again")


def _check_single(image: Image.Image) -> None:
    if image.format == "MPO":  # phones write a JPEG's preview as a second frame
        return
    if image.format == "TIFF":  # counting thousands would take minutes
        for frames in range(1, MOST_FRAMES):
            try:
                image.seek(frames)
            except EOFError:
                break
        image.seek(0)
    else:
        frames = getattr(image, "n_frames", 1)
    if frames > 1:
        count = frames if frames < MOST_FRAMES - 1 else "many"
        raise _FindingError(f"it holds {count} images; save each in its own file")


def _check_palette(image: Image.Image) -> None:
    """Raise an error for pixels whose colour the file does not say; Pillow makes them black."""
    palette = image.palette
    count = len(palette.palette) // len(palette.rawmode or "RGB") if palette else 0
    highest = int(np.asarray(image).max(initial=0))
    if highest >= count:
        raise _FindingError(f"a pixel has colour {highest} of {count}; save it again")


def _check_scans(path: Path) -> None:
    """Raise an error for a JPEG whose decoding would go over all of its pixels many times."""
    with open_binary(path) as file:
        scans = file.read().count(b"\xff\xda")
    if scans > MOST_SCANS:
        raise _FindingError(f"it has {scans} scans; save it again as a plain JPEG, or as PNG")


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _FindingError(f"it is {image.width}x{image.height}; {TOO_LARGE}")


def _is_wide(image: Image.Image) -> bool:
    """Whether the file's pixels have 16 bits; before they are decoded."""
    tiles = getattr(image, "tile", [])
    if image.format not in ("PNG", "TIFF") or not tiles:
        return False
    arguments = tiles[0][3]  # the raw mode, alone or first
    raw = arguments if isinstance(arguments, str) else arguments[0]
    return "16" in str(raw) or image.mode.startswith("I;16")


def _grey(decoded: _Decoded) -> np.ndarray:
    if _has_16_bits(decoded):
        return np.asarray(decoded.image).astype(np.uint16)
    grey = np.asarray(decoded.image.convert("L"))
    if decoded.is_wide:
        _check_high_bytes(grey)
    return grey


def _colours(decoded: _Decoded) -> np.ndarray:
    image = decoded.image
    if _has_16_bits(decoded):
        # By the high byte, which is what Pillow does to 16-bit colours itself.
        wide = np.asarray(image)
        _check_16_bits(wide)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    colours = np.asarray(image.convert("RGB"))
    if decoded.is_wide and image is decoded.image:
        _check_high_bytes(colours)
    return colours


def _mask_grey(decoded: _Decoded) -> np.ndarray:
    grey = _grey(decoded)
    if (alpha := _alpha(decoded.image)) is not None:
        half = int(np.iinfo(grey.dtype).max) // 2
        _check_alpha(grey, alpha, bool(((grey > half) & (alpha < 128)).any()))
    return grey


def _mask_colours(decoded: _Decoded) -> np.ndarray:
    colours = _colours(decoded)
    if (alpha := _alpha(decoded.image)) is not None:
        _check_alpha(colours, alpha, bool((colours.any(-1) & (alpha < 255)).any()))
    return colours


def _alpha(image: Image.Image) -> np.ndarray | None:
    """Opacity (H, W), 255 where nothing shows through; None for a file without transparency."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I") and isinstance(transparent, int):
        return np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)
    if transparent is None and not {"A", "a"} & set(image.getbands()):
        return None
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _check_alpha(pixels: np.ndarray, alpha: np.ndarray, hides_lesion: bool) -> None:
    """Raise ValueError unless a mask reads the same with its transparency and without it.

    pixels: (H, W) or (H, W, 3). alpha: (H, W). hides_lesion: a part of a lesion is transparent.
    """
    if alpha.min() == 255:
        return
    first = pixels[0, 0]
    one_colour = bool((pixels == first).all())
    if hides_lesion or (one_colour and alpha.min() < alpha.max()):
        found = f"its colours are all {first.tolist()}" if one_colour else "the two do not agree"
        raise _FindingError(
            f"the mask, or a part of it, is in its transparency (alpha, {alpha.min()} to "
            f"{alpha.max()}), which is not read; {found}. Save it without transparency, the lesion "
            "in its colour on black"
        )


def _has_16_bits(decoded: _Decoded) -> bool:
    """Whether a grey image has 16 bits. Raises ValueError for a range that is not known."""
    mode = decoded.image.mode
    if mode.startswith("I;16") or (mode == "I" and decoded.is_png):
        return True
    if mode in ("I", "F"):
        raise _FindingError(
            f"its pixels are of type {mode}, whose range is not known; save it with 8 or 16 bits"
        )
    return False


def _check_16_bits(wide: np.ndarray) -> None:
    largest = int(wide.max(initial=0))
    if not 0 < largest <= NEARLY_BLACK:
        return
    if largest < 256 or all((wide % factor).any() for factor in SCALED):
        bits = 8 if largest < 256 else 12
        raise _FindingError(
            f"nearly black: its largest value is {largest} of 65535, values of {bits} bits in a "
            f"file of 16; save it with 8 bits, or multiply by {65535 // (2**bits - 1)}"
        )


def _check_high_bytes(pixels: np.ndarray) -> None:
    """Pillow has dropped the low bytes of colours: what has no high ones may be anything."""
    if pixels.max(initial=0) <= NEARLY_BLACK >> 8:
        raise _FindingError(
            f"nearly black: its largest value is below {NEARLY_BLACK + 1} of 65535, values of 8 or "
            "12 bits in a file of 16, or nothing; save it with 8 bits"
        )
