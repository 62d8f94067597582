"""What checking a pair found, and a file that keeps it for the next run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import replacing
from .pairs import Pair
from .pictures import Size
from .tar_members import file_of
from .text import as_bytes
from .text_files import LARGEST_LIST, parse_json, read_text

Stamp = tuple[int, int]  # size of a file, and when it was last changed, in ns
# A change so soon after another may leave a file the same time; FAT counts in two seconds.
UNSETTLED = 2_000_000_000  # ns


@dataclass(frozen=True)
class PairInfo:
    """What checking a pair found.

    size: (width, height) in pixels. brightest: the image's largest value, of 255. coverage: share
    of the mask that is not black. colours: of a palette mask, 0xRRGGBB; empty for binary masks.
    digest, mask_digest: SHA-256 of image and mask file. stamps: of both, to tell later whether they
    have changed.
    """

    size: Size
    brightest: int
    coverage: float
    colours: frozenset[int]
    digest: str
    mask_digest: str
    stamps: tuple[Stamp, ...] = ()


def stamps_of(pair: Pair) -> tuple[Stamp, Stamp]:
    """Of image and mask. Raises OSError."""
    return stamp(pair.image), stamp(pair.mask)


def stamp(path: Path) -> Stamp:
    found = file_of(path).stat()
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class CheckCache:
    """A JSON file of pairs that were good, by a hash of their files' names; no other is read.

    It only saves time: what is damaged, missing or of a file that has changed is checked again.
    """

    path: Path

    def load(self, pairs: Iterable[Pair]) -> dict[Pair, PairInfo]:
        """Those of these pairs whose files are as they were."""
        found: dict[Pair, PairInfo] = {}
        with suppress(OSError, ValueError):
            entries = parse_json(read_text(self.path, LARGEST_LIST))
            for pair in pairs:
                with suppress(LookupError, TypeError, ValueError, OverflowError, OSError):
                    info = _info(entries[_key(pair)])
                    if info.stamps == stamps_of(pair):
                        found[pair] = info
        return found

    def save(self, infos: Mapping[Pair, PairInfo], began: int) -> None:
        """Keep what was found by a check that began then (ns), where the files had settled."""
        entries = {
            _key(pair): [*info.size, info.brightest, info.coverage, sorted(info.colours),
                         info.digest, info.mask_digest, info.stamps]
            for pair, info in infos.items()
            if all(changed < began - UNSETTLED for _, changed in info.stamps)
        }  # fmt: skip
        if not entries:
            return
        with suppress(OSError):  # then the next run checks them again
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(entries), encoding="utf-8")


def _key(pair: Pair) -> str:
    files = f"{pair.image.absolute()}\0{pair.mask.absolute()}"
    return hashlib.sha256(as_bytes(files)).hexdigest()


def _info(entry: Any) -> PairInfo:
    width, height, brightest, coverage, colours, digest, mask_digest, stamps = entry
    good = min(width, height) >= 1 and 0 <= brightest <= 255 and 0 <= coverage <= 1
    if not (good and all(0 <= colour <= 0xFFFFFF for colour in colours)):
        raise ValueError(entry)
    return PairInfo(
        (int(width), int(height)),
        int(brightest),
        float(coverage),
        frozenset(map(int, colours)),
        str(digest),
        str(mask_digest),
        tuple((int(size), int(changed)) for size, changed in stamps),
    )
