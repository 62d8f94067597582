"""What is missing of a run's pairs, or damaged: `--check`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from ..common.pictures import read_image, read_mask, read_palette_mask
from ..common.prompt_jsonl import Entry
from ..common.tar_members import is_there
from .jobs import Job, units_of
from .settings import Shard

THREADS = 8
AT_ONCE = 1024  # pairs; so that memory does not grow with their number


def problems(job: Job, folder: Path, palette: bool, shard: Shard | None) -> Iterator[str]:
    """A line for each pair that is not whole; `palette`: masks have a colour per class."""
    units = units_of(job, shard or Shard())
    entries = (job.entry(unit, item) for unit in units for item in job.items(unit))
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(entries, AT_ONCE)):
            found = pool.map(lambda entry: _problem(entry, folder, palette), some)
            yield from filter(None, found)


def _problem(entry: Entry, folder: Path, palette: bool) -> str:
    image, mask = folder / entry.target, folder / entry.source
    missing = [str(path) for path in (image, mask) if not is_there(path)]
    if missing:
        return f"missing: {' and '.join(missing)}"
    try:
        shape = read_image(image).shape[:2]
        found = (read_palette_mask if palette else read_mask)(mask).shape[:2]
    except ValueError as error:
        return f"damaged: {error}"
    if shape != found:
        return f"damaged: {mask} is {found[1]}x{found[0]}, its image {shape[1]}x{shape[0]}"
    return ""
