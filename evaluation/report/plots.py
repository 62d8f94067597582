"""Plots as SVG in data addresses, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

REAL, SYNTHETIC, GAIN, LOSS, LINE = "#4a5568", "#2b6cb0", "#2f855a", "#c05621", "#a0aec0"
# The same data give the same file.
STYLE: dict[Any, Any] = {"svg.hashsalt": "evaluation", "font.size": 9, "axes.spines.top": False}


@dataclass(frozen=True)
class Point:
    """One line of a plot: a mean, with its interval where there is one."""

    label: str
    mean: float
    low: float | None = None
    high: float | None = None
    colour: str = SYNTHETIC


def points(rows: Sequence[Point], axis: str, zero: bool = False) -> str:
    """Means with intervals, one below the other; `zero` draws the line of no difference."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(len(rows))
        if zero:
            axes.axvline(0, color=LINE, linewidth=1)
        for y, row in enumerate(reversed(rows)):
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=row.colour, linewidth=2)
            axes.plot([row.mean], [y], "o", color=row.colour, markersize=6)
        axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlabel(axis, parse_math=False)
        axes.grid(axis="x", color="#e2e8f0")
        axes.set_axisbelow(True)
        return _address(figure)


def histograms(
    floor: Sequence[float], found: Sequence[float], line: float | None, axis: str
) -> str:
    """How near test images (floor) and synthetic images come to training images."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(5)
        most = max(*floor, *found) or 1.0
        bins = [most * i / 30 for i in range(31)]
        for values, colour, label in (
            (floor, REAL, "real test images"),
            (found, SYNTHETIC, "synthetic images"),
        ):
            weights = [100 / len(values)] * len(values)
            axes.hist(values, bins, weights=weights, color=colour, alpha=0.55, label=label)
        if line is not None:
            axes.axvline(line, color=LOSS, linestyle="--", label="nearer than this: flagged")
        axes.set_xlabel(axis, parse_math=False)  # it may hold a file's name
        axes.set_ylabel("% of images")
        axes.legend(frameon=False)
        return _address(figure)


def _figure(rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 0.9 + 0.34 * max(rows, 2)), layout="constrained")
    return figure, figure.add_subplot()


def _address(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
