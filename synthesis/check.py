"""What is missing of a run's pairs, or damaged: `--check`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from ..common.pictures import read_image, read_mask, read_palette_mask
from ..common.prompt_jsonl import Entry
from ..common.tar_members import is_there
from .errors import SynthesisError
from .jobs import Job, units_of
from .plan import Item
from .settings import Shard
from .shard import Masking

THREADS = 8
AT_ONCE = 1024  # pairs; so that memory does not grow with their number


def problems(job: Job, folder: Path, palette: bool, shard: Shard | None) -> Iterator[str]:
    """A line for each pair that is not whole; `palette`: masks have a colour per class."""
    units = units_of(job, shard or Shard())
    pairs = ((job.entry(unit, item), item) for unit in units for item in job.items(unit))
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(pairs, AT_ONCE)):
            found = pool.map(
                lambda one: _problem(one[0], one[1], job.masking, folder, palette), some
            )
            yield from filter(None, found)


def _problem(entry: Entry, item: Item, masking: Masking, folder: Path, palette: bool) -> str:
    image, mask = folder / entry.target, folder / entry.source
    missing = [str(path) for path in (image, mask) if not is_there(path)]
    if missing:
        return f"missing: {' and '.join(missing)}"
    try:
        shape = read_image(image).shape[:2]
        saved = (read_palette_mask if palette else read_mask)(mask)
    except ValueError as error:
        return f"damaged: {error}"
    if shape != saved.shape[:2]:
        found = saved.shape
        return f"damaged: {mask} is {found[1]}x{found[0]}, its image {shape[1]}x{shape[0]}"
    return _other_mask(mask, saved, item, masking)


def _other_mask(path: Path, saved: np.ndarray, item: Item, masking: Masking) -> str:
    """Settings are compared by name; a folder of other masks with the same names is seen here."""
    try:
        now = masking.read(item).saved_mask
    except SynthesisError:
        raise
    except ValueError:
        return ""  # the pair is whole, whatever has become of the mask since
    same = np.array_equal(saved, now)
    return "" if same else f"damaged: {path} is another mask than {item.stem} is now"
