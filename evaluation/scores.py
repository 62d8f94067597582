"""A score for each synthetic pair, and a prompt.jsonl of those within a band."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from ..common.files import replacing
from ..common.prompt_jsonl import Entry, write_prompt_jsonl
from ..common.scores import Score
from .alignment import Judgement
from .band import Band
from .pair_sets import PairSet


def scores_of(path: Path, pairs: PairSet, judgement: Judgement) -> list[Score]:
    """The scores of a set, with paths relative to the file that they are written to."""
    agreements = judgement.agreement.mean(0)
    return [
        Score(
            pairs.name,
            _relative(pair.image, path.parent),
            _relative(pair.mask, path.parent),
            round(float(agreement), 5),
            None if math.isnan(doubt) else round(float(doubt), 5),
        )
        for pair, agreement, doubt in zip(
            pairs.pairs, agreements, judgement.disagreement, strict=True
        )
    ]


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
