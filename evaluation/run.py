"""One evaluation of checked pairs: measure everything, write the report."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ..common.files import replacing
from ..common.scores import write_scores
from ..common.text import printable
from .alignment import Judgement, measure_alignment
from .command_line import RUNS, Request
from .contrast import measure_contrast
from .diversity import measure_diversity
from .downstream import Downstream, measure_downstream
from .features import Features, given_features, own_features
from .fidelity import measure_fidelity
from .inputs import Inputs
from .memorisation import measure_memorisation
from .pair_sets import PairSet
from .report.page import write_page
from .scores import keep, scores_of, write_kept
from .settings import Settings
from .store import Store

log = logging.getLogger(__name__)

REPORT = "report.json"
LIBRARIES = ("torch", "monai", "segmentation-models-pytorch", "torchmetrics", "prdc", "fastrad")


def run(request: Request, sets: Inputs) -> Path:
    """Measure what the command line asks for; the path of report.html.

    Raises DatasetError or FeaturesError for what the user can put right.
    """
    start = time.monotonic()
    settings = request.settings(sets.resolution)
    _announce(sets, settings)
    features = _given(request, sets, settings)  # a bad file is found before hours of training
    runs = request.out / RUNS
    runs.mkdir(parents=True, exist_ok=True)
    log.info("Training on real pairs")
    real_only = measure_downstream(sets.train, sets.test, (), settings, runs, request.jobs)
    judges = real_only.judges
    alignment, judgements = measure_alignment(judges, sets.test, sets.synthetic, settings.seed)
    filtered = _filter(request, sets.synthetic, judgements)
    log.info("Training with synthetic pairs")
    downstream = measure_downstream(
        sets.train, sets.test, (*sets.synthetic, *filtered), settings, runs, request.jobs
    )
    log.info("Comparing images")
    features = features or own_features(sets.train, settings, Store(runs))
    content = {
        "about": _about(request, sets, settings),
        "downstream": _downstream(downstream),
        "contrast": measure_contrast(downstream, (sets.train, sets.test, *sets.synthetic)),
        "alignment": alignment,
        "filter": _filter_summary(request, sets.synthetic, filtered),
        "fidelity": measure_fidelity(features, sets.test, sets.synthetic, settings),
        "diversity": measure_diversity(features, sets.synthetic, settings),
        "memorisation": measure_memorisation(
            features, sets.train, sets.test, sets.synthetic, settings.seed
        ),
        "seconds": round(time.monotonic() - start, 1),
    }
    if request.anonymous:
        content = anonymised(content)
    with replacing(request.out / REPORT) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        temporary.write_text(printable(text), "utf-8")
    return write_page(
        request.out / "report.html", content, sets.train, sets.synthetic, not request.anonymous
    )


def anonymised(content: Mapping[str, Any]) -> dict[str, Any]:
    """The figures without paths, file names and groups; pictures are told by number."""
    about = {**content["about"]}
    about["sets"] = {name: {**found, "file": None} for name, found in about["sets"].items()}
    memorisation = [
        {
            **row,
            "closest": [_by_number(row["set"], pair) for pair in row["closest"]],
            **{name: _numbered(row.get(name)) for name in ("groups", "floor_groups")},
        }
        for row in content["memorisation"]
    ]
    return {**content, "about": about, "memorisation": memorisation}


def _numbered(groups: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    if groups is None:
        return None
    return [{**row, "group": number} for number, row in enumerate(groups, 1)]


def _by_number(name: str, pair: Mapping[str, Any]) -> dict[str, Any]:
    synthetic, training = pair["numbers"]
    names = {"synthetic": f"{name} {synthetic}", "training": f"real_train {training}"}
    return {**pair, **names, "group": None}


def _announce(sets: Inputs, settings: Settings) -> None:
    counts = ", ".join(f"{pairs.name} {len(pairs)}" for pairs in sets.synthetic)
    log.info("%d real training, %d real test pairs", len(sets.train), len(sets.test))
    log.info("Synthetic pairs: %s", counts)
    log.info("At %d x %d on %s", sets.resolution, sets.resolution, settings.device)


def _given(request: Request, sets: Inputs, settings: Settings) -> Features | None:
    if request.features is None:
        return None
    features = given_features(request.features, request.features_model, sets.train, settings)
    for pairs in (sets.test, *sets.synthetic):
        features.of(pairs)
    return features


def _filter(
    request: Request, synthetic: Sequence[PairSet], judgements: Mapping[str, Judgement]
) -> tuple[PairSet, ...]:
    """Write the scores and the filtered sets that are asked for; the filtered sets."""
    if request.scores:
        scores = [scores_of(request.scores, pairs, judgements[pairs.name]) for pairs in synthetic]
        write_scores(request.scores, chain.from_iterable(scores))
    if request.keep is None:
        return ()
    for pairs in synthetic:
        folder = request.out / "filtered" / pairs.name
        write_kept(folder, pairs, judgements[pairs.name], request.keep)
    return tuple(keep(pairs, judgements[pairs.name], request.keep) for pairs in synthetic)


def _filter_summary(
    request: Request, synthetic: Sequence[PairSet], filtered: Sequence[PairSet]
) -> dict[str, Any] | None:
    if request.keep is None:
        return None
    counts = [
        {"set": pairs.name, "pairs": len(pairs), "kept": len(kept)}
        for pairs, kept in zip(synthetic, filtered, strict=True)
    ]
    return {"keep": [request.keep.low, request.keep.high], "sets": counts}


def _downstream(found: Downstream) -> dict[str, Any]:
    return {
        "table": found.table(),
        "left_out": found.left_out,
        "training_pairs": len(found.training),
        "validation_pairs": len(found.validation),
        "test_pairs": len(found.test),
        "test_groups": len(set(found.test.groups)) if found.test.groups else None,
    }


def _about(request: Request, sets: Inputs, settings: Settings) -> dict[str, Any]:
    return {
        "quick": request.quick,
        "features_given": request.features is not None,
        "settings": asdict(settings),
        "sets": {
            pairs.name: {
                "file": str(request.files[pairs.name]),
                "pairs": len(pairs),
                "groups": len(set(pairs.groups)) if pairs.groups else None,
                "coverage": float(pairs.masks.mean()),
                "fingerprint": pairs.fingerprint(),
            }
            for pairs in (sets.train, sets.test, *sets.synthetic)
        },
        "notes": list(sets.notes),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "machine": f"{platform.machine()}, {_device_name(settings)}",
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device_name(settings: Settings) -> str:
    if settings.device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"
