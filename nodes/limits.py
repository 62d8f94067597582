"""How many pixels a node may hold: whatever a request asks for, memory is bounded."""

from __future__ import annotations

from ..common.pixel_budget import LARGEST_SAMPLED

MOST_PIXELS = 1 << 28  # of all masks or images that a node puts out; 1 GiB for each channel


def check_pixels(count: int, width: int, height: int, what: str, advice: str) -> None:
    """Raise ValueError for so many pictures of that size that memory may not suffice."""
    check_total(count * width * height, f"{count} {what} of {width}x{height} pixels", advice)


def check_total(pixels: int, what: str, advice: str) -> None:
    """Raise ValueError for more than MOST_PIXELS; `what` they are of, and what to do."""
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"{what} are {pixels / 1e6:.0f} million pixels; at most {MOST_PIXELS / 1e6:.0f} "
            f"million are held at a time. {advice}"
        )


def check_sampled_size(width: int, height: int) -> None:
    """Raise ValueError for an image larger than any may be, such as one of a mask's size."""
    if max(width, height) > LARGEST_SAMPLED:
        raise ValueError(
            f"The image would have {width}x{height} pixels; at most {LARGEST_SAMPLED} are sampled "
            "in either direction. Set width and height; the mask is stretched to them."
        )
