"""The grid, in pieces: the same command again goes on where the last one stopped.

    python -m siamese_diffusion.benchmarks.ablation OUT --base nuclei_base.safetensors \\
        --budget_minutes 60

`make nuclei` makes the base. Each cell has a folder in OUT, with figures.json and synthetic pairs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...models.weights import WeightsError
from ...tools.nuclei import Settings
from .cells import Cell, grid
from .run_cell import CellRun, UnfinishedError


def run(out: Path, base: Path, cells: Sequence[Cell], settings: Settings, minutes: float) -> int:
    """Run what is not done yet; returns how many cells are left."""
    until = time.monotonic() + 60 * minutes
    left = [cell for cell in cells if not CellRun(out, base, cell, settings).done]
    while left and time.monotonic() < until:
        print(f"cell {left[0].name}, {len(left)} left", flush=True)
        CellRun(out, base, left[0], settings, until).run()
        left.pop(0)
    return len(left)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 when all cells are done, 1 when some are left, 2 when an input is wrong."""
    parser = argparse.ArgumentParser(prog="ablation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the cells")
    parser.add_argument("--base", type=Path, required=True, help="what `make nuclei` has made")
    parser.add_argument("--budget_minutes", type=float, default=60, help="60")
    parser.add_argument("--steps", type=int, default=Settings.steps, help=str(Settings.steps))
    parser.add_argument("--cells", nargs="*", metavar="CELL", help="such as published-40-seed0")
    given = parser.parse_args(argv)
    try:
        cells = [Cell.parse(name) for name in given.cells] if given.cells else grid()
        settings = Settings(steps=given.steps)
        left = run(given.out, given.base, cells, settings, given.budget_minutes)
    except UnfinishedError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("All cells are done." if not left else f"{left} cells are left.")
    return 0 if not left else 1


if __name__ == "__main__":
    sys.exit(main())
