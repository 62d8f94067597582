"""Alignment, scores and filter, judged by a segmenter that needs no training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.common.scores import read_scores, write_scores
from siamese_diffusion.evaluation.alignment import Judgement, judge, measure_alignment, shuffled
from siamese_diffusion.evaluation.band import Band
from siamese_diffusion.evaluation.pair_sets import PairSet
from siamese_diffusion.evaluation.scores import keep, scores_of, write_kept
from support.evaluated_pairs import ColourSegmenter, made_up, with_shuffled_masks


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return made_up(tmp_path_factory.mktemp("alignment"), "real_test", 24, 1)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return made_up(tmp_path_factory.mktemp("alignment"), "new", 24, 2)


def test_images_that_show_their_masks_reach_the_ceiling_and_others_the_floor(
    real: PairSet, new: PairSet
) -> None:
    wrong = with_shuffled_masks(new, "wrong")
    rows, _ = measure_alignment([ColourSegmenter()], real, [new, wrong], seed=0)
    found = {row["set"]: row for row in rows}
    assert found["real_test"]["dice"]["mean"] > 0.85
    assert found["new"]["dice"]["mean"] == pytest.approx(
        found["real_test"]["dice"]["mean"], abs=0.1
    )
    floor = found["new"]["shuffled"]
    assert floor["mean"] < 0.35
    # Wrong masks are as good as masks shuffled once more.
    assert floor["low"] - 0.1 < found["wrong"]["dice"]["mean"] < floor["high"] + 0.1


@pytest.mark.parametrize("count", [2, 3, 10])
def test_shuffling_leaves_nothing_in_its_place(count: int) -> None:
    for seed in range(10):
        order = shuffled(count, seed)
        assert sorted(order) == list(range(count))
        assert (order != np.arange(count)).all()


def test_judges_that_see_the_same_do_not_disagree(real: PairSet) -> None:
    same = judge([ColourSegmenter(), ColourSegmenter()], real.images, real.masks)
    assert same.disagreement == pytest.approx(np.zeros(len(real)))
    alone = judge([ColourSegmenter()], real.images, real.masks)
    assert np.isnan(alone.disagreement).all()


def test_scores_name_the_files_and_an_unknown_uncertainty_is_null(
    new: PairSet, tmp_path: Path
) -> None:
    found = judge([ColourSegmenter()], new.images, new.masks)
    path = tmp_path / "scores.jsonl"
    write_scores(path, scores_of(path, new, found))
    assert read_scores(path) == scores_of(path, new, found)
    lines = [
        json.loads(line) for line in (tmp_path / "scores.jsonl").read_text("utf-8").splitlines()
    ]
    assert [(tmp_path / line["target"]).resolve() for line in lines] == [
        pair.image.resolve() for pair in new.pairs
    ]
    assert [line["agreement"] for line in lines] == pytest.approx(found.agreement[0], abs=1e-5)
    assert {line["uncertainty"] for line in lines} == {None}


def test_the_filter_keeps_a_band_and_says_why_the_rest_went(new: PairSet, tmp_path: Path) -> None:
    agreement = np.linspace(0, 1, len(new))[None]
    judgement, band = Judgement(agreement, np.zeros(len(new))), Band(0.4, 0.8)
    expected = [
        pair for pair, value in zip(new.pairs, agreement[0], strict=True) if 0.4 <= value <= 0.8
    ]
    write_kept(tmp_path / "filtered", new, judgement, band)
    read = read_prompt_jsonl(tmp_path / "filtered" / "prompt.jsonl")
    assert read.problems == []
    assert [pair.image.resolve() for pair in read.pairs] == [
        pair.image.resolve() for pair in expected
    ]
    assert keep(new, judgement, band).pairs == tuple(expected)
    text = (tmp_path / "filtered" / "dropped.jsonl").read_text("utf-8")
    dropped = [json.loads(line) for line in text.splitlines()]
    assert len(dropped) == len(new) - len(expected)
    assert "below 0.4" in dropped[0]["reason"] and "above 0.8" in dropped[-1]["reason"]
