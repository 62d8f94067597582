"""Whether a PNG's data hold all of its rows; Pillow leaves black what is missing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's colour type
# Adam7, PNG's interlacing: first column, first row, and the steps to the next ones of each pass.
PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
AT_ONCE = 1 << 20  # bytes that are decompressed


def has_all_rows(file: BinaryIO) -> bool:
    """Whether the rows of a PNG, whose chunks are whole, are all there."""
    file.seek(8)
    chunks = _chunks(file)
    _, header = next(chunks)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for column, row, across, down in passes:
        columns, rows = -(-(width - column) // across), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * CHANNELS[colour] * depth + 7) // 8)
    data = (content for kind, content in chunks if kind == b"IDAT")
    return _decompresses_to(data, expected)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        yield kind, file.read(length)
        file.seek(4, 1)  # the checksum


def _decompresses_to(parts: Iterator[bytes], size: int) -> bool:
    """Whether there are at least so many bytes."""
    stream, found = zlib.decompressobj(), 0
    for part in parts:
        rest = part
        while rest and found < size and not stream.eof:
            found += len(stream.decompress(rest, AT_ONCE))
            rest = stream.unconsumed_tail
    return found >= size
