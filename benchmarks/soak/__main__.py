"""Use the nodes and the trainer for long, and write down what grew.

python -m siamese_diffusion.benchmarks.soak                  # all; hours, to be left alone
python -m siamese_diffusion.benchmarks.soak masks --masks 200 --out measured

A part that is in the results already, and was good, is not run again, unless --fresh. Training goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..measure import machine
from ..report import (
    RELIABILITY,
    RELIABILITY_DOCS,
    ROOT,
    Result,
    quote_in_docs,
    read_results,
    table,
)
from .server import soak_masks, soak_prompts
from .training import soak_training

PARTS: dict[str, tuple[Callable[[Path, int], dict[str, Any]], int, str]] = {
    "prompts": (soak_prompts, 300, "different prompts on one server"),
    "masks": (soak_masks, 2000, "masks through Siamese Synthesize Dataset, one prompt"),
    "training": (soak_training, 20_000, "steps of a tiny model, one run"),
}
NAME = "soak"
COLUMNS = ("", "memory before", "after", "growth (below 5 %)", "file handles", "first = last")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m siamese_diffusion.benchmarks.soak",
        description="Long use: growth of memory and file handles, and equal results.",
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all")
    for name, (_, count, what) in PARTS.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"{what} ({count})")
    parser.add_argument("--out", type=Path, default=RELIABILITY, help="folder for soak.json")
    parser.add_argument("--work", type=Path, default=ROOT / "soak_output", help="for large files")
    parser.add_argument("--fresh", action="store_true", help="run again what is there already")
    given = parser.parse_args(argv)
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    for name in given.parts or PARTS:
        soak, count = PARTS[name][0], getattr(given, name)
        found = {} if given.fresh else read_parts(given.out)
        if not is_done(found.get(name), count):
            write_part(given.out, name, soak(given.work, count))
    result = as_result(read_parts(given.out))
    print(table(result))
    if given.out == RELIABILITY:
        quote_in_docs(read_results(RELIABILITY), RELIABILITY_DOCS)
    return 0 if all(part["good"] for part in result.raw.values()) else 1


def is_done(part: dict[str, Any] | None, count: int) -> bool:
    """Whether what was found needs no other run; it was last looked at a moment before the end."""
    return part is not None and part["good"] and part["done"] >= 0.99 * count


def read_parts(folder: Path) -> dict[str, Any]:
    path = folder / f"{NAME}.json"
    return dict(json.loads(path.read_text("utf-8"))["raw"]) if path.is_file() else {}


def write_part(folder: Path, name: str, part: dict[str, Any]) -> None:
    as_result({**read_parts(folder), name: part}).write(folder)


def as_result(parts: dict[str, Any]) -> Result:
    rows = [_row(name, parts[name]) for name in PARTS if name in parts]
    return Result(NAME, "Long use", machine(), rows, parts, columns=COLUMNS)


def _row(name: str, part: dict[str, Any]) -> list[str]:
    before, after = (part[f"memory_{when}"] / 2**20 for when in ("before", "after"))
    return [
        f"{part['done']:,} {PARTS[name][2]}",
        f"{before:.0f} MiB",
        f"{after:.0f} MiB",
        f"{part['memory_growth']:+.1%}",
        f"{part['handles_growth']:+d}",
        "bit for bit" if part["equal"] else "**no**",
    ]


if __name__ == "__main__":
    sys.exit(main())
