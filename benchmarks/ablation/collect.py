"""From the grid's folder to results/*.json, which is all that tables and plots need.

python -m siamese_diffusion.benchmarks.ablation.collect OUT
python -m siamese_diffusion.benchmarks.ablation.collect FEW --name few     # grid_few.json, ...
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation.intervals import bootstrap
from ...tools.nuclei_crops import Crop, read_crops
from ...tools.otsu import nuclei
from ...tools.pairs import shuffled_iou
from ...tools.train_autoencoder import evaluate_nuclei, load_autoencoder
from .cells import ALL, Cell
from .likeness import Likeness
from .run_cell import scored

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


def compare(cells: dict[Cell, Row], crops: Sequence[Crop]) -> list[Row]:
    """Paired differences in alignment, over all seeds that both arms have; whole groups drawn.

    crops: the test split. Raises ValueError for cells that were scored on other masks of it.
    """
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
                shown = scored(crops, len(pairs[0][0][EACH]))
                groups = [crops[number].group for number in shown]
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


def real_figures(crops: Sequence[Crop]) -> dict[str, float]:
    """What alignment is compared with: real images of the masks, also through the autoencoder
    (what any model with it can reach), and with every mask but their own (the floor)."""
    real = evaluate_nuclei(load_autoencoder(), crops)
    found = [nuclei(crop.image) for crop in crops]
    return {
        "masks": len(crops),
        "real": real["iou_original"],
        "autoencoder": real["iou"],
        "shuffled": shuffled_iou([crop.mask for crop in crops], found),
    }


def write(name: str, content: object) -> None:
    (RESULTS / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def collect(out: Path, name: str = "") -> None:
    """Write what there is in the grid's folder. Raises OSError, ValueError or KeyError.

    name: of another grid than the main one, whose files it ends the names of. Those of downstream
    figures tell tiles, segmenters and arms, and stay as they are.
    """
    ending = f"_{name}" if name else ""
    crops, cells = read_crops("test"), read_cells(out)
    write(f"grid{ending}.json", [without_each(row) for row in cells.values()])
    write(f"comparisons{ending}.json", compare(cells, crops))
    fewest = min((len(row[EACH]) for row in cells.values()), default=len(crops))
    shown = [crops[number] for number in scored(crops, fewest)]
    real = {**real_figures(shown), "training_images": Likeness(out).floor()}
    write(f"real{ending}.json", real)
    for path in out.glob("downstream-*.json"):
        shutil.copy(path, RESULTS / path.name)
    for path in out.glob("sampler_settings.json"):
        shutil.copy(path, RESULTS / f"sampler_settings{ending}.json")
    copy_sheets(out, sheets(cells, name))


def sheets(cells: Iterable[Cell], name: str) -> dict[Cell, str]:
    """Cells whose pictures are kept, and how their names end: the one of the main grid that the
    page shows; of another grid, those of seed 0 with the fewest tiles."""
    if not name:
        return {Cell("published", 40, 0): ""}
    first = [cell for cell in cells if cell.seed == 0 and cell.tiles != ALL]
    fewest = min((cell.tiles for cell in first), default=ALL)
    return {cell: f"_{name}-{cell.tiles}-{cell.arm}" for cell in first if cell.tiles == fewest}


def copy_sheets(out: Path, chosen: Mapping[Cell, str]) -> None:
    for cell, ending in chosen.items():
        for branch in ("mask_branch", "image_branch"):
            sheet = out / cell.name / f"{branch}.png"
            if sheet.is_file():
                shutil.copy(sheet, RESULTS / f"{branch}{ending}.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where a file is missing or wrong."""
    parser = argparse.ArgumentParser(prog="collect", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the grid's folder")
    parser.add_argument(
        "--name", default="", help="of another grid than the main one: few for grid_few.json"
    )
    given = parser.parse_args(argv)
    try:
        collect(given.out, given.name)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
