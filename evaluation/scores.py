"""A score for each synthetic pair, and a prompt.jsonl of those within a band."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..common.files import replacing
from ..common.prompt_jsonl import Entry, write_prompt_jsonl
from .alignment import Judgement
from .band import Band
from .pair_sets import PairSet


def write_scores(
    path: Path, synthetic: Sequence[PairSet], judgements: Mapping[str, Judgement]
) -> None:
    """One JSON object a line; image and mask are relative to the file, as in a prompt.jsonl.

    agreement: mean Dice of the mask with what segmenters trained on the real pairs see in the
    image. uncertainty: 1 minus the mean Dice between any two of them, null with a single one.
    """
    with replacing(path) as temporary:
        lines = [
            line for pairs in synthetic for line in _lines(path, pairs, judgements[pairs.name])
        ]
        temporary.write_text("".join(lines), encoding="utf-8")


def _lines(path: Path, pairs: PairSet, judgement: Judgement) -> list[str]:
    agreements = judgement.agreement.mean(0)
    lines = []
    for pair, agreement, doubt in zip(pairs.pairs, agreements, judgement.disagreement, strict=True):
        entry = {
            "set": pairs.name,
            "target": _relative(pair.image, path.parent),
            "source": _relative(pair.mask, path.parent),
            "agreement": round(float(agreement), 5),
            "uncertainty": None if math.isnan(doubt) else round(float(doubt), 5),
        }
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    return lines


def keep(pairs: PairSet, judgement: Judgement, band: Band) -> PairSet:
    """The pairs whose agreement lies in the band; may be none."""
    agreements = judgement.agreement.mean(0)
    kept = [number for number, agreement in enumerate(agreements) if agreement in band]
    return PairSet(**{**vars(pairs.take(kept)), "name": f"{pairs.name} (filtered)"})


def write_kept(folder: Path, pairs: PairSet, judgement: Judgement, band: Band) -> None:
    """prompt.jsonl of the kept pairs, which stay where they are, and dropped.jsonl with reasons."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, dropped = [], []
    for pair, value in zip(pairs.pairs, judgement.agreement.mean(0), strict=True):
        source, target = (_relative(path, folder) for path in (pair.mask, pair.image))
        if value in band:
            kept.append(Entry(source, target, pair.caption, pair.group))
        else:
            reason = band.reason(float(value))
            dropped.append(json.dumps({"target": target, "source": source, "reason": reason}))
    write_prompt_jsonl(folder / "prompt.jsonl", kept)
    with replacing(folder / "dropped.jsonl") as temporary:
        temporary.write_text("".join(f"{line}\n" for line in dropped), encoding="utf-8")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
