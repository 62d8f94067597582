"""What a TIFF's tags say of its pixels, where Pillow would show them wrong without a word."""

from __future__ import annotations

from PIL import Image

WIDTH, HEIGHT, BITS, SAMPLES = 256, 257, 258, 277
# Tags, and values of them that Pillow passes over.
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
PLANES, SEPARATE = 284, 2
SAMPLE_FORMAT, SIGNED = 339, 2


def tiff_problem(image: Image.Image, wide: bool) -> str | None:
    """Why an undecoded TIFF would be read wrong, and what to do; None where it is not.

    wide: its pixels have 16 bits.
    """
    tags = getattr(image, "tag_v2", {})
    if SIGNED in tags.get(SAMPLE_FORMAT, (1,)) and image.mode not in ("I", "F"):
        return "its pixels are signed numbers; save it with values from 0"
    if wide and image.mode.startswith("I") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        return "its 16-bit values count from white (WhiteIsZero); save it inverted"
    planes = tags.get(SAMPLES, 1) if tags.get(PLANES) == SEPARATE else 1
    if planes > 1 and max(tags.get(BITS, (1,))) > 8:
        return "its 16-bit colours are in separate planes; save it with them side by side"
    # Not the image's own width and height: these are those of the image once it is turned.
    width, height = tags.get(WIDTH, image.width), tags.get(HEIGHT, image.height)
    if _covered(image, width, height) < planes * width * height:
        return "damaged: it ends before its last row; copy or save it again"
    return None


def _covered(image: Image.Image, width: int, height: int) -> int:
    """How many pixels the file has data for, of all planes; Pillow leaves the others black."""
    found = 0
    for _, (left, top, right, bottom), *_others in getattr(image, "tile", []):
        found += (min(right, width) - left) * (min(bottom, height) - top)
    return found
