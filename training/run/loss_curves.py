"""The loss curves of a run: losses.png, a panel for each term, readable on a phone."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # Takes a second to import: only when something is drawn.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = Mapping[str, Any]  # of metrics.jsonl
Points = Mapping[str, tuple[np.ndarray, np.ndarray]]  # steps and values, by name

# Panels in this order, each with its title; a term that a run does not have has no panel.
TITLES = {
    "mask": "mask branch",
    "image": "image branch",
    "consistency": "consistency",
    "augmentation": "augmentation",
}
INTERVALS = 50  # points of a curve: means over so many parts of the run
BEGINNING = 0.05  # share of the steps that may lie outside a panel, which would flatten the rest
# Inches: the figure's width, a panel with its title, and what is above and below all of them.
WIDTH, PANEL, TOP, BOTTOM = 5.0, 1.5, 0.65, 0.55
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#555555"  # colour-blind people can tell them apart


def draw_losses(lines: Iterable[Line]) -> Figure | None:
    """Losses and learning rate over the steps, from the lines of a metrics.jsonl; None without any.

    Each term has axes of its own, so that none lies under another or flattens it. Its curve is the
    mean over intervals of the run; validation losses are points beside it.
    """
    # The object interface draws without a display and leaves matplotlib's global state alone.
    from matplotlib.figure import Figure

    points = _points(lines)
    terms = [term for term in TITLES if f"loss_{term}" in points]
    if not terms or "learning_rate" not in points:
        return None
    height = TOP + PANEL * (len(terms) + 1) + BOTTOM
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(0.16, BOTTOM / height, 0.97, 1 - TOP / height, hspace=0.5)
    panels = figure.subplots(len(terms) + 1, sharex=True)
    for term, axes in zip(terms, panels, strict=False):
        _draw_term(axes, term, points)
    _draw_learning_rate(panels[-1], points)
    # All that a legend explains is in the first panel, which every run has.
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper left", ncols=2, frameon=False)
    return figure


def _draw_term(axes: Axes, term: str, points: Points) -> None:
    steps, values = points[f"loss_{term}"]
    count = min(len(values), INTERVALS)
    middles, means = (
        np.array([interval.mean() for interval in np.array_split(each, count)])
        for each in (steps, values)
    )
    axes.plot(middles, means, color=BLUE, linewidth=2, label="training")
    shown, latest = means[middles >= BEGINNING * steps[-1]], f"{means[-1]:#.3g}"
    if f"validation_{term}" in points:
        validated, losses = points[f"validation_{term}"]
        axes.plot(validated, losses, ".-", color=ORANGE, linewidth=1.5, label="validation")
        shown = np.concatenate([shown, losses[validated >= BEGINNING * steps[-1]]])
        latest = f"{latest}, validation {losses[-1]:#.3g}"
    shown = shown[np.isfinite(shown)]  # a validation may not be
    if shown.size:
        margin = 0.1 * np.ptp(shown) or 0.1 * abs(shown[0]) or 1e-6
        axes.set_ylim(shown.min() - margin, shown.max() + margin)
    _label(axes, TITLES[term], latest)


def _draw_learning_rate(axes: Axes, points: Points) -> None:
    steps, rates = points["learning_rate"]
    axes.plot(steps, rates, color=GREY, linewidth=2)
    highest = 1.1 * rates.max()
    axes.set_ylim(0, highest if highest > 0 and np.isfinite(highest) else 1)
    _label(axes, "learning rate", f"{rates[-1]:.3g}")
    axes.set_xlabel("step")
    axes.locator_params(axis="x", integer=True)


def _label(axes: Axes, title: str, latest: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_title(latest, loc="right")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.locator_params(axis="y", nbins=4)
    axes.grid(alpha=0.3)


def _points(lines: Iterable[Line]) -> Points:
    """All values of all lines; as plain numbers, because a long run has a million of them."""
    steps: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
    values: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
    for line in lines:
        for name, value in line.items():
            steps[name].append(line["step"])
            values[name].append(value)
    return {name: (np.array(steps[name]), np.array(values[name])) for name in values}
