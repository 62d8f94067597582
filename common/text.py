"""Text from files and requests, made fit for messages."""

from __future__ import annotations

LONGEST = 120  # characters of a name in a message


def printable(text: str) -> str:
    """The text with lone surrogates, which no terminal or page can encode, as escapes.

    They come from file names that are not UTF-8, from pickles and from JSON.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def shortened(name: str) -> str:
    """A name on one line, at most LONGEST characters of it, control characters as escapes."""
    cut = name if len(name) <= LONGEST else name[: LONGEST - 3] + "..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)
