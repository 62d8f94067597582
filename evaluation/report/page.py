"""report.html: plots and pictures inside, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ...common.files import replacing
from ...common.text import printable
from ..arms import BASELINE
from ..downstream import ALL
from ..overlap import METRICS
from ..pair_sets import PairSet
from ..settings import SEGMENTERS
from . import plots, words
from .thumbnails import thumbnail

SHOWN = 8
TITLES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95 (pixels, lower is better)"}
FIGURES = ("kid", "frechet", "precision", "recall", "density", "coverage")

Content = Mapping[str, Any]


def write_page(
    path: Path,
    content: Content,
    train: PairSet,
    synthetic: Sequence[PairSet],
    show_real: bool = True,
) -> Path:
    """Write the page of an evaluation's figures; returns `path`.

    show_real: whether pictures of training images are on it.
    """
    real = [train] if show_real else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "interval": words.interval,
        "percent": words.percent,
        "trusted": words.trusted,
    }
    page = environment.get_template("page.html.j2").render(
        **content,
        baseline=BASELINE,
        all=ALL,
        metrics=METRICS,
        titles=TITLES,
        figures=FIGURES,
        descriptions=SEGMENTERS,
        summaries={pairs.name: words.summary(content, pairs.name) for pairs in synthetic},
        primary=_primary(content, synthetic),
        plots=_plots(content),
        pictures={pairs.name: _pictures(pairs) for pairs in (*real, *synthetic)},
        closest=[
            _closest(row, [next(pairs for pairs in synthetic if pairs.name == row["set"]), *real])
            for row in content["memorisation"]
        ],
    )
    with replacing(path) as temporary:
        temporary.write_text(printable(page), encoding="utf-8")
    return path


def _primary(content: Content, synthetic: Sequence[PairSet]) -> list[str]:
    """The arms that the summary quotes, of the synthetic sets and of what the filter keeps."""
    names = [pairs.name for pairs in synthetic]
    if content["filter"]:
        names += [f"{name} (filtered)" for name in names]
    rows = [words.primary(content["downstream"]["table"], name) for name in names]
    return [row["arm"] for row in rows if row]


def _plots(content: Content) -> dict[str, Any]:
    table = content["downstream"]["table"]
    return {
        "differences": {metric: _differences(table, metric) for metric in METRICS},
        "alignment": _alignment(content["alignment"]),
        "fidelity": {
            name: _fidelity(content["fidelity"][name]) for name in ("published", "honest")
        },
        "memorisation": [
            plots.histograms(
                row["floor_distances"],
                row["distances"],
                row.get("threshold"),
                f"distance to the nearest training image ({row['space'].partition(',')[0]})",
            )
            for row in content["memorisation"]
        ],
    }


def _differences(table: Sequence[Content], metric: str) -> str:
    rows = []
    for row in table:
        if row["arm"] == BASELINE:
            continue
        found = words.trusted(row["segmenters"][ALL][metric])
        sign = -1 if metric == "hd95" else 1
        colour = plots.REAL
        if found["low"] is not None and sign * found["low"] > 0 and sign * found["high"] > 0:
            colour = plots.GAIN
        elif found["low"] is not None and sign * found["low"] < 0 and sign * found["high"] < 0:
            colour = plots.LOSS
        rows.append(plots.Point(row["arm"], found["mean"], found["low"], found["high"], colour))
    return plots.points(rows, f"difference in {TITLES[metric]} to {BASELINE}", zero=True)


def _alignment(rows: Sequence[Content]) -> str:
    points = []
    for row in rows:
        colour = plots.REAL if row["real"] else plots.SYNTHETIC
        points.append(_point(row["set"], row["dice"], colour))
        if row["shuffled"]:
            points.append(_point(f"{row['set']}, masks shuffled", row["shuffled"], plots.LINE))
    return plots.points(points, "Dice of mask and segmentation")


def _fidelity(protocol: Content) -> str | None:
    if "left_out" in protocol:
        return None
    points = [
        _point(row["set"], row["kid"], plots.SYNTHETIC if index else plots.REAL)
        for index, row in enumerate(protocol["rows"])
    ]
    return plots.points(points, "KID (lower is more alike)", zero=True)


def _point(label: str, found: Content, colour: str) -> plots.Point:
    return plots.Point(label, found["mean"], found["low"], found["high"], colour)


def _pictures(pairs: PairSet) -> list[str]:
    """Evenly spaced pairs, chosen by nothing else."""
    chosen = np.linspace(0, len(pairs) - 1, min(SHOWN, len(pairs))).round().astype(int)
    return [thumbnail(pairs.images[i], pairs.masks[i]) for i in chosen]


def _closest(row: Content, sets: Sequence[PairSet]) -> list[dict[str, Any]]:
    """sets: the synthetic one, and the training set where its pictures are shown."""
    return [
        {
            **found,
            "pictures": [
                thumbnail(pairs.images[number])
                for pairs, number in zip(sets, found["numbers"], strict=False)
            ],
        }
        for found in row["closest"]
    ]
