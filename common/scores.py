"""scores.jsonl, how well each synthetic image shows its mask: its one reader and its one writer.

A line is a JSON object {"set": name, "target": image, "source": mask, "agreement": 0..1,
"uncertainty": 0..1 or null}, with paths relative to the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeGuard

from .files import replacing
from .text import printable, shown
from .text_files import numbered_lines, parse_json

EXPECTED = "what siamese-evaluate --scores writes"


@dataclass(frozen=True)
class Score:
    """Of one pair.

    agreement: mean Dice of the mask with what segmenters trained on real pairs see in the image.
    uncertainty: 1 minus the mean Dice between any two of them; None where there was only one.
    """

    set: str
    target: str
    source: str
    agreement: float
    uncertainty: float | None

    def to_line(self) -> str:
        line = json.dumps(asdict(self), ensure_ascii=False)
        return (line if printable(line) == line else json.dumps(asdict(self))) + "\n"


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write the whole file, or leave the old one as it is."""
    with replacing(path) as temporary:
        text = "".join(score.to_line() for score in scores)
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_scores(path: Path) -> list[Score]:
    """Raises ValueError naming the file, and the line that is wrong."""
    try:
        lines = list(numbered_lines(path))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    scores = [_parse(line, f"{path}, line {number}") for number, line in lines]
    if not scores:
        raise ValueError(f"{path}: no scores; expected {EXPECTED}")
    return scores


def _parse(line: str, where: str) -> Score:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; expected {EXPECTED}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {shown(values)} is no JSON object; expected {EXPECTED}")
    target, agreement = values.get("target"), values.get("agreement")
    if not isinstance(target, str) or not _is_share(agreement):
        raise ValueError(
            f"{where}: target is {shown(target)} and agreement {shown(agreement)}; expected the "
            "path of an image and a number from 0 to 1, as siamese-evaluate --scores writes them"
        )
    uncertainty = values.get("uncertainty")
    return Score(
        str(values.get("set", "")),
        target,
        str(values.get("source", "")),
        agreement,
        uncertainty if _is_share(uncertainty) else None,
    )


def _is_share(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
