"""What the figures look like: results/*.json to tables and plots.

python -m siamese_diffusion.benchmarks.ablation.plots --cells OUT   # collect, then draw
python -m siamese_diffusion.benchmarks.ablation.plots               # draw what is committed
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
GRID, SETTINGS = RESULTS / "grid.json", RESULTS / "sampler_settings.json"

Row = dict[str, Any]


def collect(cells: Path) -> list[Row]:
    """The figures of all finished cells in a folder, without those of single images."""
    rows = []
    for path in sorted(cells.glob("*/figures.json")):
        row = json.loads(path.read_text("utf-8"))
        del row["alignment_of_each"]
        rows.append(row)
    return rows


def grid_table(rows: Sequence[Row]) -> str:
    """Markdown: a line a cell."""
    lines = [
        "| recipe | real tiles | seed | alignment (95 % interval) | spread | training, min |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["cell"]["tiles"] or 9999, row["cell"]["recipe"])):
        cell, minutes = row["cell"], row["training"]["seconds"] / 60
        lines.append(
            f"| `{cell['recipe']}` | {cell['tiles'] or 'all'} | {cell['seed']} "
            f"| {_text(row['alignment'])} | {row['spread']['mean']:.1f} | {minutes:.0f} |"
        )
    return "\n".join(lines)


def settings_table(rows: Sequence[Row]) -> str:
    """Markdown: steps downwards, CFG across."""
    cfgs = sorted({row["cfg"] for row in rows})
    lines = ["| steps | " + " | ".join(f"CFG {cfg:g}" for cfg in cfgs) + " | s an image |"]
    lines.append("|---" * (len(cfgs) + 2) + "|")
    for steps in sorted({row["steps"] for row in rows}):
        found = {row["cfg"]: row for row in rows if row["steps"] == steps}
        means = [f"{found[cfg]['alignment']['mean']:.3f}" if cfg in found else "" for cfg in cfgs]
        slowest = max(row["seconds_an_image"] for row in found.values())
        lines.append(f"| {steps} | " + " | ".join(means) + f" | {slowest:.2f} |")
    return "\n".join(lines)


def _text(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def draw_grid(rows: Sequence[Row], path: Path) -> None:
    """Alignment against spread, a point a cell: up is where the mask says, right is varied."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for recipe in sorted({row["cell"]["recipe"] for row in rows}):
        mine = [row for row in rows if row["cell"]["recipe"] == recipe]
        _points(axes, mine, recipe)
    axes.set(
        xlabel="spread over noise seeds (mean difference in grey values)",
        ylabel="alignment (IoU of mask and Otsu's nuclei)",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def _points(axes: Axes, rows: Sequence[Row], label: str) -> None:
    x, y = [row["spread"]["mean"] for row in rows], [row["alignment"]["mean"] for row in rows]
    errors = [
        [row["alignment"]["mean"] - row["alignment"]["low"] for row in rows],
        [row["alignment"]["high"] - row["alignment"]["mean"] for row in rows],
    ]
    axes.errorbar(x, y, yerr=errors, fmt="o", capsize=3, label=label)
    for row, left, top in zip(rows, x, y, strict=True):
        axes.annotate(f" {row['cell']['tiles'] or 'all'}", (left, top), fontsize=8)


def draw_settings(rows: Sequence[Row], path: Path) -> None:
    """Alignment against steps, a line for each CFG."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for cfg in sorted({row["cfg"] for row in rows}):
        mine = sorted((row for row in rows if row["cfg"] == cfg), key=lambda row: row["steps"])
        steps, means = zip(*((row["steps"], row["alignment"]["mean"]) for row in mine), strict=True)
        axes.plot(steps, means, "o-", label=f"CFG {cfg:g}")
    axes.set(xlabel="DDIM steps", ylabel="alignment (IoU)", xscale="log")
    axes.set_xticks(sorted({row["steps"] for row in rows}))
    axes.get_xaxis().set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where a file is missing or wrong."""
    parser = argparse.ArgumentParser(prog="plots", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cells", type=Path, help="collect the finished cells of this folder")
    given = parser.parse_args(argv)
    try:
        if given.cells is not None:
            GRID.write_text(json.dumps(collect(given.cells), indent=1) + "\n", "utf-8")
        for path, table, draw in (
            (GRID, grid_table, draw_grid),
            (SETTINGS, settings_table, draw_settings),
        ):
            rows = json.loads(path.read_text("utf-8"))
            draw(rows, path.with_suffix(".png"))
            print(f"{path.stem}\n\n{table(rows)}\n")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
