"""Text from files and requests, made fit for messages."""

from __future__ import annotations

import reprlib
import unicodedata

LONGEST = 120  # characters of a name in a message
DIGITS = 4000  # of a whole number that Python still writes out


def printable(text: str) -> str:
    """The text with lone surrogates, which no terminal or page can encode, as escapes.

    They come from file names that are not UTF-8, from pickles and from JSON.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def as_bytes(text: str) -> bytes:
    """UTF-8, for hashes; also of names of files that are not UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def same_name(name: str) -> str:
    """Equal for names that some file systems take for one.

    Those of Windows and a Mac do so for A.png and a.png, a Mac's for an accent in one character or
    in two.
    """
    return unicodedata.normalize("NFC", name).casefold()


def visible(text: str) -> str:
    """The text with all but line ends that is not printable as escapes.

    A terminal would take control characters in a file's name for commands.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`visible`, line ends as escapes too."""
    return visible(text).replace("\n", "\\n")


def shortened(name: str, longest: int = LONGEST) -> str:
    """`one_line`, at most so many characters of the name."""
    return one_line(name if len(name) <= longest else name[: longest - 3] + "...")


def shown(value: object) -> str:
    """Any value from a file or request, however large or deeply nested, as `shortened` text."""
    return shortened(_SHORT.repr(value))


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = LONGEST

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()  # Python refuses to write out very long numbers
        return repr(x) if bits < DIGITS else f"a number of {bits} bits"


_SHORT = _Short()
