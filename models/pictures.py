"""Reading image and mask files of any common format as 8-bit arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MASK_THRESHOLD = 127  # of 255: half of the range


def read_image(path: Path) -> np.ndarray:
    """RGB image (H, W, 3), uint8, without alpha. Raises ValueError naming the file."""
    return np.asarray(_read(path, "RGB"))


def read_mask(path: Path) -> np.ndarray:
    """Binary mask (H, W), bool: true above half of the file's range. Raises ValueError."""
    return np.asarray(_read(path, "L")) > MASK_THRESHOLD


def read_palette_mask(path: Path) -> np.ndarray:
    """A mask's colours (H, W, 3), uint8, as a viewer shows them. Raises ValueError."""
    return np.asarray(_read(path, "RGB"))


def _read(path: Path, mode: str) -> Image.Image:
    """Decode a file upright, in `mode` ("L" or "RGB"), or raise ValueError naming the file."""
    try:
        with Image.open(path) as image:
            # Phones write a JPEG's preview as a second frame.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > 1:
                raise ValueError(f"it holds {frames} pictures; save each in a file of its own")
            is_png = image.format == "PNG"
            return _to_8_bit(ImageOps.exif_transpose(image), is_png).convert(mode)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: cannot be decoded as an image (unknown format)") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ValueError(f"{path}: cannot be decoded as an image ({error})") from error


def _to_8_bit(image: Image.Image, is_png: bool) -> Image.Image:
    """16-bit greys by their high byte, which is what Pillow does to 16-bit colours itself.

    Raises ValueError for 32-bit and floating point values: their white point is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and is_png):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are of type {image.mode}, whose range is not known; save it with 8 or "
            "16 bits"
        )
    return image
