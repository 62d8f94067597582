"""What the figures look like: results/*.json to tables and plots.

python -m siamese_diffusion.benchmarks.ablation.plots
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

from .collect import RESULTS

PUBLISHED_SAMPLER = "ddim, ddim_uniform"

Row = dict[str, Any]


def grid_table(rows: Sequence[Row]) -> str:
    """Markdown: a line a cell."""
    lines = [
        "| arm | real tiles | seed | alignment (95 % interval) | KID | Frechet | precision "
        "| recall | spread |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["cell"]["tiles"] or 9999, row["cell"]["arm"])):
        cell = row["cell"]
        head = f"| `{cell['arm']}` | {cell['tiles'] or 'all'} | {cell['seed']} "
        lines.append(f"{head}{_branch_cells(row)}")
        if row["image_branch"]:
            lines.append(f"| its image branch | | {_branch_cells(row['image_branch'])}")
    return "\n".join(lines)


def _branch_cells(row: Row) -> str:
    fidelity = row["fidelity"]
    return (
        f"| {_text(row['alignment'])} | {fidelity['kid']:.3f} | {fidelity['frechet']:.1f} "
        f"| {fidelity['precision']:.3f} | {fidelity['recall']:.3f} | {row['spread']['mean']:.1f} |"
    )


def comparison_table(rows: Sequence[Row]) -> str:
    """Markdown: paired differences in alignment."""
    lines = [
        "| arm | against | real tiles | seeds | difference in alignment | better in |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row['arm']}` | `{row['against']}` | {row['tiles'] or 'all'} | {row['seeds']} "
            f"| {_difference(row['difference'])} | {row['better_in']:.0%} |"
        )
    return "\n".join(lines)


def downstream_table(content: Row) -> str:
    """Markdown: what segmenters reach on real test images."""
    lines = ["| trained on | Dice | difference to real + augmentation |", "|---|---|---|"]
    for row in content["arms"]:
        dice = row["all"]["dice"]
        lines.append(f"| {row['arm']} | {dice['mean']:.4f} | {_difference(dice['difference'])} |")
    return "\n".join(lines)


def rivals_table(rows: Sequence[Row]) -> str:
    """Markdown: arms against others than real + augmentation."""
    lines = ["| trained on | against | difference in Dice |", "|---|---|---|"]
    for row in rows:
        change = _difference(row["all"]["dice"]["difference"])
        lines.append(f"| {row['arm']} | {row['against']} | {change} |")
    return "\n".join(lines)


def fifths_table(arms: dict[str, Sequence[Row]]) -> str:
    """Markdown: differences in Dice to real + augmentation, a column for each fifth."""
    ranges = [row["contrast"] for row in next(iter(arms.values()))]
    ends = " | ".join(f"{low:.0f} to {high:.0f}" for low, high in ranges)
    lines = [f"| trained on | {ends} |", "|---" * (len(ranges) + 1) + "|"]
    for arm, fifths in arms.items():
        changes = " | ".join(_difference(row["difference"]) for row in fifths)
        lines.append(f"| {arm} | {changes} |")
    return "\n".join(lines)


def settings_table(rows: Sequence[Row]) -> str:
    """Markdown, of the published sampler: steps downwards, CFG across."""
    rows = [row for row in rows if row["sampler"] == PUBLISHED_SAMPLER]
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


def _difference(value: dict[str, float]) -> str:
    return f"{value['mean']:+.4f} ({value['low']:+.4f} to {value['high']:+.4f})"


def draw_trade_off(rows: Sequence[Row], path: Path) -> None:
    """Frechet distance against variety within a mask, a point for each branch and seed.

    Spreads have their interval; of the Frechet distance none was measured.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm, colour in (("mask_only", "tab:orange"), ("published", "tab:blue")):
        mine = [row for row in rows if row["cell"]["arm"] == arm and row["cell"]["tiles"] == 40]
        _points(axes, mine, f"{arm}, mask branch", "o", colour)
        images = [row["image_branch"] for row in mine if row["image_branch"]]
        _points(axes, images, f"{arm}, image branch (image + mask)", "s", colour)
    axes.set(
        xlabel="spread: mean difference in grey values between images of one mask (95 % interval)",
        ylabel="Frechet distance to real test images (no interval)",
        xlim=(0, None),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def _points(axes: Axes, rows: Sequence[Row], label: str, mark: str, colour: str) -> None:
    if not rows:
        return
    x = [row["spread"]["mean"] for row in rows]
    y = [row["fidelity"]["frechet"] for row in rows]
    ends = [(row["spread"]["low"], row["spread"]["high"]) for row in rows]
    axes.hlines(y, *zip(*ends, strict=True), color=colour, linewidth=1, alpha=0.5)
    fill = colour if mark == "o" else "none"
    axes.plot(x, y, mark, label=label, color=colour, markerfacecolor=fill, markersize=8)


def draw_downstream(content: Row, path: Path) -> None:
    """Differences in Dice to real + augmentation, with their intervals."""
    rows = [row for row in content["arms"] if row["arm"] != "real + augmentation"][::-1]
    figure = Figure(figsize=(7, 0.9 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="grey", linewidth=1)
    for y, row in enumerate(rows):
        change = row["all"]["dice"]["difference"]
        axes.plot([change["low"], change["high"]], [y, y], color="tab:blue")
        axes.plot([change["mean"]], [y], "o", color="tab:blue")
    axes.set_yticks(range(len(rows)), [row["arm"] for row in rows])
    axes.set_xlabel("difference in Dice to real + augmentation")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)


def draw_settings(rows: Sequence[Row], path: Path) -> None:
    """Alignment against steps, a line for each CFG."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in rows if row["sampler"] == PUBLISHED_SAMPLER]
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


def show(results: Path) -> None:
    """Print every table and draw every plot. Raises OSError, ValueError or KeyError."""

    def read(path: Path) -> Any:
        return json.loads(path.read_text("utf-8"))

    grid, settings = read(results / "grid.json"), read(results / "sampler_settings.json")
    draw_trade_off(grid, results / "trade_off.png")
    draw_settings(settings, results / "sampler_settings.png")
    tables = {"sampler settings": settings_table(settings)}
    # grid_cpu.json is older, and has no likeness.
    for path in sorted({*results.glob("grid*.json")} - {results / "grid_cpu.json"}):
        tables[path.stem] = grid_table(read(path))
    for path in sorted(results.glob("comparisons*.json")):
        tables[path.stem] = comparison_table(read(path))
    for path in sorted(results.glob("downstream-*.json")):
        content = read(path)
        draw_downstream(content, path.with_suffix(".png"))
        tables[path.stem] = downstream_table(content)
        # Older ones have neither.
        if compared := content.get("compared"):
            tables[f"{path.stem}, arm against arm"] = rivals_table(compared)
        if fifths := content.get("by_contrast"):
            tables[f"{path.stem}, in fifths of the test images by contrast"] = fifths_table(fifths)
    for title, table in tables.items():
        print(f"{title}\n\n{table}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where a file is missing or wrong."""
    parser = argparse.ArgumentParser(prog="plots", description=(__doc__ or "").split("\n")[0])
    parser.parse_args(argv)
    try:
        show(RESULTS)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
