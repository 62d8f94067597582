"""Writing a prepared dataset: all of it, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...common.natural_order import natural
from ...common.pair_files import PairFiles
from ...common.pictures import pixel_count, read_image, read_mask
from ...common.pixel_budget import BUDGET
from ...common.prompt_jsonl import Entry, write_prompt_jsonl
from ...common.text import as_bytes, same_name, shortened, shown
from ...common.text_files import parse_json, read_text
from .items import Item, PrepareError, report

RECORD = "dataset.json"
LONGEST_NAME = 200  # bytes; file systems take 255, and names get an ending
SPLITS = ("train", "val", "val_seen", "test", "test_seen")


@dataclass(frozen=True)
class Written:
    """What writing a pair found: problems, whether the mask is empty, whether it is the study's."""

    problems: tuple[str, ...] = ()
    empty: bool = False
    differs: bool = False


def check_out(out: Path, name: str) -> None:
    """Raise PrepareError unless `out` is new, empty, or holds this dataset and nothing else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise PrepareError(f"{out}: is a file; expected a folder to write to")
    inside = sorted(path.name for path in out.iterdir())
    if not inside:
        return
    held = _recorded(out / RECORD)
    if held != name:
        what = f"holds the dataset {shown(held)}" if held else "is not empty"
        raise PrepareError(f"{out}: {what}; give a new folder for {name}")
    others = [entry for entry in inside if entry not in (*SPLITS, RECORD)]
    if others:
        raise PrepareError(
            f"{out}: holds more than the dataset, such as {shortened(others[0])}, which would be "
            "deleted; move it away, or give a new folder"
        )


def write_dataset(
    out: Path, name: str, items: Sequence[Item], short_side: int | None = None
) -> list[str]:
    """Write SPLIT/{images,masks}/NAME.png and SPLIT/prompt.jsonl; returns notes on what was found.

    out: an absolute path. short_side: larger pictures are reduced to it. Raises PrepareError with
    every file that is wrong, and leaves `out` as it was.
    """
    items = sorted(items, key=lambda item: natural(item.name))
    _check_names(items)
    with _building(out, name) as folder:
        results = _write_all(folder, items, short_side)
        problems = [problem for result in results for problem in result.problems]
        if problems:
            raise PrepareError(
                f"{len(problems)} files are wrong; nothing was written.{report(problems)}"
            )
        for split in {item.split for item in items}:
            entries = [
                Entry(f"masks/{item.name}.png", f"images/{item.name}.png", item.caption, item.group)
                for item in items
                if item.split == split
            ]
            write_prompt_jsonl(folder / str(split) / "prompt.jsonl", entries)
        _write_record(folder / RECORD, name, items)
    return _notes(results)


def count(items: Sequence[Item]) -> dict[str, dict[str, int]]:
    """Pairs and groups of each split."""
    return {
        split: {"pairs": len(inside), "groups": len({item.group for item in inside})}
        for split in SPLITS
        if (inside := [item for item in items if item.split == split])
    }


def make_pair(item: Item, short_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and mask (H, W), 0 or 255, uint8. Raises ValueError saying what is wrong."""
    image = read_image(item.image)
    height, width = image.shape[:2]
    mask = np.zeros((height, width), bool)
    for path in item.masks:
        part = read_mask(path)
        if part.shape != mask.shape:
            raise ValueError(
                f"{path}: is {part.shape[1]}x{part.shape[0]}, its image {item.image} is "
                f"{width}x{height}; they must be equal"
            )
        mask |= part
    if item.crop is not None:
        left, top, right, bottom = item.crop
        if right > width or bottom > height:
            raise ValueError(
                f"{item.image}: is {width}x{height}, expected at least {right}x{bottom}"
            )
        image, mask = image[top:bottom, left:right], mask[top:bottom, left:right]
    return _reduce(image, np.where(mask, 255, 0).astype(np.uint8), short_side)


def _reduce(
    image: np.ndarray, mask: np.ndarray, short_side: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose short side is larger made smaller: images by averaging, masks by nearest."""
    height, width = mask.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return image, mask
    scale = short_side / min(height, width)
    size = (round(width * scale), round(height * scale))
    return (
        np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)),
        np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)),
    )


def pair_digest(image: np.ndarray, mask: np.ndarray) -> str:
    """8 hexadecimal digits that tell whether a pair's pixels are those of another."""
    return hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()[:8]


def _write_all(folder: Path, items: Sequence[Item], short_side: int | None) -> list[Written]:
    show = _progress(len(items))
    results = []
    with ThreadPoolExecutor() as pool:
        try:
            for done in pool.map(lambda item: _write(folder, item, short_side), items):
                results.append(done)
                show(len(results))
        except BaseException:  # Ctrl-C too: do not write the rest first
            pool.shutdown(cancel_futures=True)
            raise
    return results


def _write(folder: Path, item: Item, short_side: int | None) -> Written:
    try:
        with BUDGET.take(sum(map(pixel_count, (item.image, *item.masks)))):
            image, mask = make_pair(item, short_side)
    except ValueError as error:
        return Written((str(error),))
    files = PairFiles(folder / str(item.split))
    files.write_mask(item.name, mask)
    files.write_image(item.name, image)
    differs = item.digest is not None and item.digest != pair_digest(image, mask)
    return Written(empty=not mask.any(), differs=differs)


def _notes(results: Sequence[Written]) -> list[str]:
    notes = []
    empty = sum(result.empty for result in results)
    if empty:
        notes.append(f"{empty} of {len(results)} masks are empty (black)")
    differ = sum(result.differs for result in results)
    if differ:
        notes.append(
            f"{differ} of {len(results)} tiles are not the study's: their image or mask has other "
            "pixels. The study had the corrected masks; see docs/reproduce.md"
        )
    return notes


def _check_names(items: Sequence[Item]) -> None:
    counts = Counter((item.split, same_name(item.name)) for item in items)
    twice = [name for (_, name), number in counts.items() if number > 1]
    if twice:
        names = ", ".join(twice[:5])
        raise PrepareError(f"{len(twice)} names are given to several pairs, such as {names}")
    longest = max((item.name for item in items), key=lambda name: len(as_bytes(name)), default="")
    if len(as_bytes(longest)) > LONGEST_NAME:
        raise PrepareError(
            f"{shortened(longest)}: a name of {len(as_bytes(longest))} bytes, of all folders that "
            f"the image is in; at most {LONGEST_NAME} are written. Rename them."
        )


def _write_record(path: Path, name: str, items: Sequence[Item]) -> None:
    record = {"dataset": name, "splits": count(items)}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8", newline="\n")


def _recorded(path: Path) -> object:
    """The dataset that a folder was prepared for."""
    try:
        record = parse_json(read_text(path))
    except (OSError, ValueError):
        return None
    return record.get("dataset") if isinstance(record, dict) else None


@contextmanager
def _building(out: Path, name: str) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its place when all went well."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    old = out.with_name(f".{out.name}.{os.getpid()}.old.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        check_out(out, name)  # again: another process may have written to it meanwhile
        if out.exists():
            out.rename(old)
        try:
            temporary.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def _progress(total: int) -> Callable[[int], None]:
    """Shows how many pairs are written: in place on a terminal, every tenth of them in a log."""
    terminal = sys.stderr.isatty()
    step = max(1, total // 100 if terminal else total // 10)

    def show(done: int) -> None:
        if done % step == 0 or done == total:
            end = "\r" if terminal and done < total else "\n"
            sys.stderr.write(f"{done} of {total} pairs{end}")
            sys.stderr.flush()

    return show
