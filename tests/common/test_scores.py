"""scores.jsonl is read as it was written, and a wrong one is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from siamese_diffusion.common.scores import Score, read_scores, write_scores


def test_scores_come_back_as_they_were_written(tmp_path: Path) -> None:
    scores = [
        Score("new", "images/pólyp\u2028 1.png", "masks/1.png", 0.81234, 0.25),
        Score("new", "../other/2.png", "../other/m2.png", 1.0, None),
    ]
    write_scores(tmp_path / "scores.jsonl", scores)
    assert read_scores(tmp_path / "scores.jsonl") == scores


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no scores"),
        ('{"target": "a.png", "agreement": 0.5}\nnonsense\n', "line 2: not JSON"),
        ("[1]\n", r"line 1: \[1\] is no JSON object"),
        ('{"target": "a.png", "agreement": 7}\n', "a number from 0 to 1"),
        ('{"target": "a.png", "agreement": NaN}\n', "a number from 0 to 1"),
        ('{"target": "a.png", "agreement": true}\n', "a number from 0 to 1"),
        ('{"source": "a.png", "agreement": 0.5}\n', "target is None"),
    ],
)
def test_what_is_no_score_is_named_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=words) as error:
        read_scores(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jsonl: cannot be read"):
        read_scores(tmp_path / "none.jsonl")
