"""The grid, in pieces: the same command again goes on where the last one stopped.

    python -m siamese_diffusion.benchmarks.ablation OUT --base nuclei_base.safetensors \\
        --budget_minutes 60

`make nuclei` makes the base. Each cell has a folder in OUT, with figures.json and,
where segmenters are trained on them, synthetic pairs.
On a GPU, --jobs 12 runs that many cells at a time: each alone leaves most of the card idle.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...models.weights import WeightsError
from ...tools.nuclei import Settings
from .cells import Cell, grid
from .likeness import Likeness
from .run_cell import CellRun, UnfinishedError

# Settings that a command may change, with their values where it does not.
CHOSEN: dict[str, float] = {
    **{name: getattr(Settings, name) for name in ("steps", "batch", "save_every", "cfg")},
    "test_masks": 1_359,  # all of them
}


@dataclass(frozen=True)
class Grid:
    """What is run: cells with one base and one setting, into one folder."""

    out: Path
    base: Path
    cells: Sequence[Cell]
    settings: Settings
    until: float  # by time.monotonic()

    def left(self) -> list[Cell]:
        return [cell for cell in self.cells if not self.cell_run(cell).done]

    def cell_run(self, cell: Cell) -> CellRun:
        return CellRun(self.out, self.base, cell, self.settings, self.until)

    def run(self) -> None:
        """One after the other. Raises UnfinishedError."""
        for cell in self.left():
            if time.monotonic() > self.until:
                return
            print(f"cell {cell.name}", flush=True)
            self.cell_run(cell).run()

    def run_parallel(self, jobs: int) -> None:
        """Each cell in a process of its own, `jobs` at a time; what they print is in OUT/logs."""
        Likeness(self.out)  # trained once, before all need it
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self._run_process, self.left()))

    def _run_process(self, cell: Cell) -> None:
        minutes = (self.until - time.monotonic()) / 60
        if minutes <= 0:
            return
        flags: dict[str, object] = {
            "base": self.base,
            "cells": cell.name,
            "budget_minutes": minutes,
            **{name: getattr(self.settings, name) for name in CHOSEN},
        }
        command = [sys.executable, "-m", "siamese_diffusion.benchmarks.ablation", str(self.out)]
        for name, value in flags.items():
            command += [f"--{name}", str(value)]
        start = time.monotonic()
        with (self.out / "logs" / f"{cell.name}.log").open("w", encoding="utf-8") as file:
            code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
        print(f"{cell.name}: exit code {code}, {time.monotonic() - start:.0f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 when all cells are done, 1 when some are left, 2 when an input is wrong."""
    given = parse_args(argv)
    try:
        cells = [Cell.parse(name) for name in given.cells] if given.cells else grid()
        settings = Settings(**{name: getattr(given, name) for name in CHOSEN})
        until = time.monotonic() + 60 * given.budget_minutes
        study = Grid(given.out, given.base, cells, settings, until)
        if given.jobs > 1:
            study.run_parallel(given.jobs)
        else:
            study.run()
        left = len(study.left())
    except UnfinishedError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("All cells are done." if not left else f"{left} cells are left.")
    return 0 if not left else 1


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ablation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the cells")
    parser.add_argument("--base", type=Path, required=True, help="what `make nuclei` has made")
    parser.add_argument("--budget_minutes", type=float, default=60, help="60")
    parser.add_argument("--cells", nargs="*", metavar="CELL", help="such as published-40-seed0")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (1)")
    for name, default in CHOSEN.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=str(default))
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
