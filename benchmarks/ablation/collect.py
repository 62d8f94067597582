"""From the grid's folder to results/*.json, which is all that tables and plots need.

python -m siamese_diffusion.benchmarks.ablation.collect OUT
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation.intervals import bootstrap
from ...tools.nuclei_crops import read_crops
from ...tools.train_autoencoder import evaluate_nuclei, load_autoencoder
from .cells import Cell
from .likeness import Likeness

RESULTS = Path(__file__).parent / "results"
EACH = "alignment_of_each"
# Pairs of arms whose alignment is compared mask by mask.
COMPARED = (
    ("published", "mask_only"),
    ("published", "mask_only_longer"),
    ("published", "no_augmentation"),
    ("published", "constant_w"),
    ("published", "concat"),
    ("published", "adaptive"),
)

Row = dict[str, Any]


def read_cells(out: Path) -> dict[Cell, Row]:
    """The figures of all finished cells."""
    rows = [json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*/figures.json"))]
    return {Cell(**row["cell"]): row for row in rows}


def without_each(row: Row) -> Row:
    """A row without the figures of single images."""
    kept = {name: value for name, value in row.items() if name != EACH}
    if kept.get("image_branch"):
        kept["image_branch"] = without_each(kept["image_branch"])
    return kept


def compare(cells: dict[Cell, Row], groups: Sequence[str]) -> list[Row]:
    """Paired differences in alignment, over all seeds that both arms have; whole groups drawn."""
    found = []
    for first, second in COMPARED:
        for tiles in sorted({cell.tiles for cell in cells}):
            pairs = [
                (cells[cell], cells[Cell(second, tiles, cell.seed)])
                for cell in cells
                if (cell.arm, cell.tiles) == (first, tiles)
                and Cell(second, tiles, cell.seed) in cells
            ]
            if pairs:
                differences = np.array([np.subtract(a[EACH], b[EACH]) for a, b in pairs])
                found.append(
                    {
                        "arm": first,
                        "against": second,
                        "tiles": tiles,
                        "seeds": len(pairs),
                        "difference": asdict(bootstrap(differences, 0, groups)),
                        "better_in": float((differences > 0).mean()),
                    }
                )
    return found


def write(name: str, content: object) -> None:
    (RESULTS / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def collect(out: Path) -> None:
    """Write what there is in the grid's folder. Raises OSError, ValueError or KeyError."""
    crops, cells = read_crops("test"), read_cells(out)
    write("grid.json", [without_each(row) for row in cells.values()])
    write("comparisons.json", compare(cells, [crop.group for crop in crops]))
    real = evaluate_nuclei(load_autoencoder(), crops)
    write(
        "real.json",
        {
            "masks": len(crops),
            "real": real["iou_original"],
            "autoencoder": real["iou"],
            "training_images": Likeness(out).floor(),
        },
    )
    copy(out.glob("downstream-*.json"))
    copy(out.glob("sampler_settings.json"))
    for branch in ("mask_branch", "image_branch"):
        sheet = out / Cell("published", 40, 0).name / f"{branch}.png"
        if sheet.is_file():
            shutil.copy(sheet, RESULTS / f"{branch}.png")


def copy(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.copy(path, RESULTS / path.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where a file is missing or wrong."""
    parser = argparse.ArgumentParser(prog="collect", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the grid's folder")
    try:
        collect(parser.parse_args(argv).out)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
