"""Reading image and mask files of any common format, for nodes and training alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Size = tuple[int, int]  # (width, height) in pixels

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
# Whatever a file is called, no other decoder may try it: that of PostScript starts Ghostscript,
# which would run the program that such a file is.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")


def read_image(path: Path) -> np.ndarray:
    """RGB image (H, W, 3), uint8, without alpha. Raises ValueError naming the file."""
    return _read(path, _colours)


def read_mask(path: Path) -> np.ndarray:
    """Binary mask (H, W), bool: true above half of the file's range, 127 of 255 as published.

    A black file is an empty mask. Raises ValueError with the name of a file that cannot be
    decoded, or that is neither black nor above half anywhere, such as a mask of zeros and ones.
    """
    grey = _read(path, _grey)
    largest = int(np.iinfo(grey.dtype).max)
    half, brightest = largest // 2, int(grey.max(initial=0))
    if 0 < brightest <= half:
        raise ValueError(
            f"{path}: the mask's brightest value is {brightest} of {largest}; expected a lesion "
            f"above {half}, or a black image for an empty mask. Multiply by "
            f"{largest // brightest}, or paint the lesion white."
        )
    return grey > half


def read_palette_mask(path: Path) -> np.ndarray:
    """A mask's colours (H, W, 3), uint8, as a viewer shows them. Raises ValueError."""
    return _read(path, _colours)


def _read(path: Path, convert: Callable[[Image.Image, bool], np.ndarray]) -> np.ndarray:
    """Decode a file, rotated as its EXIF data say; `convert` is told whether it is a PNG.

    Raises ValueError with the file's name.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            # Phones write a JPEG's preview as a second frame.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > 1:
                raise ValueError(f"it holds {frames} images; save each in its own file")
            return convert(ImageOps.exif_transpose(image), image.format == "PNG")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ValueError(f"{path}: cannot be decoded as an image ({known})") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ValueError(f"{path}: cannot be decoded as an image ({error})") from error


def _grey(image: Image.Image, is_png: bool) -> np.ndarray:
    if _has_16_bits(image, is_png):
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image.convert("L"))


def _colours(image: Image.Image, is_png: bool) -> np.ndarray:
    if _has_16_bits(image, is_png):
        # By the high byte, which is what Pillow does to 16-bit colours itself.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def _has_16_bits(image: Image.Image, is_png: bool) -> bool:
    """Whether a grey image has 16 bits. Raises ValueError for a range that is not known."""
    if image.mode.startswith("I;16") or (image.mode == "I" and is_png):
        return True
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are of type {image.mode}, whose range is not known; save it with 8 or "
            "16 bits"
        )
    return False
