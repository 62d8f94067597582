"""Do the synthetic images look like real ones? Against two reference sets, beside real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import radiomics
from .distances import NEIGHBOURS, frechet, kid, prdc
from .features import Features
from .pair_sets import PairSet
from .settings import Settings

FEWEST = 12  # images a side of a draw; the 5 nearest of fewer are nearly all of them

Figures = Callable[[np.ndarray, np.ndarray], dict[str, float]]
Vectors = dict[str, np.ndarray]  # of each set by its name, the reference first


def measure_fidelity(
    features: Features, test: PairSet, synthetic: Sequence[PairSet], settings: Settings
) -> dict[str, Any]:
    """Both protocols: against training images, as published, and against held-out test images."""
    train = features.unseen
    texture = {
        pairs.name: radiomics.radiomics(pairs)
        for pairs in (train, test, *synthetic)
        if radiomics.AVAILABLE
    }
    return {
        "features": features.name,
        "radiomics": radiomics.NAME if radiomics.AVAILABLE else None,
        "neighbours": NEIGHBOURS,
        "draws": settings.draws,
        "published": _protocol([train, test, *synthetic], features, texture, settings),
        "honest": _protocol([test, train, *synthetic], features, texture, settings),
    }


def _protocol(
    sets: Sequence[PairSet],
    features: Features,
    texture: Mapping[str, np.ndarray],
    settings: Settings,
) -> dict[str, Any]:
    """Every set against the first; the second is real too, the floor that a perfect generator of
    new images would reach.

    All figures are means over draws of n images a side, the same n in every row: the Frechet
    distance, precision and their like change with n. n is half of the smallest set.
    """
    reference = sets[0]
    content: dict[str, Any] = {"reference": reference.name, "available": len(reference)}
    vectors = {pairs.name: features.of(pairs) for pairs in sets}
    rows, n = compare(vectors, _in_features, settings)
    content |= {"n": n, "rows": rows}
    if not rows:
        content["left_out"] = (
            f"half of the smallest set is {n} images; at least {FEWEST} are needed"
        )
    if texture:
        chosen = [texture[pairs.name] for pairs in sets]
        scaled = radiomics.comparable(chosen[0], chosen[1:])
        vectors = {pairs.name: rows for pairs, rows in zip(sets, scaled, strict=True)}
        content["radiomics"], content["radiomics_n"] = compare(
            vectors, lambda x, y: {"frechet": frechet(y, x)}, settings
        )
    return content


def _in_features(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    return {
        "kid": kid(reference, other),
        "frechet": frechet(other, reference),
        **prdc(reference, other),
    }


def compare(
    vectors: Vectors, figures: Figures, settings: Settings
) -> tuple[list[dict[str, Any]], int]:
    """(a row for each set but the reference, n images a side); no rows where n is too small."""
    # Without the rows that say nothing: masks too small for radiomics.
    (_, reference), *others = (
        (name, rows[np.isfinite(rows).all(1)]) for name, rows in vectors.items()
    )
    # A draw of all would be the same each time, and its interval have no width.
    n = min(len(reference), *(len(rows) for _, rows in others)) // 2
    if n < FEWEST:
        return [], n
    draws = [_draws(reference, rows, n, figures, settings) for _, rows in others]
    return [{"set": name, **row} for (name, _), row in zip(others, draws, strict=True)], n


def _draws(
    first: np.ndarray, second: np.ndarray, n: int, figures: Figures, settings: Settings
) -> dict[str, dict[str, float]]:
    """Each figure's mean over random draws of n rows a side, and where 95 % of the draws lie."""
    rng = np.random.default_rng((settings.seed, 5))
    found = [
        figures(*(rows[rng.choice(len(rows), n, replace=False)] for rows in (first, second)))
        for _ in range(settings.draws)
    ]
    return {name: _spread([one[name] for one in found]) for name in found[0]}


def _spread(values: list[float]) -> dict[str, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}
