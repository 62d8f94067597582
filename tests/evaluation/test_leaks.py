"""A test pair met in training stops the evaluation, and splits part no group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from siamese_diffusion.common.pairs import DatasetError
from siamese_diffusion.evaluation.leaks import check_leaks
from siamese_diffusion.evaluation.pair_sets import load_pairs
from siamese_diffusion.evaluation.splits import split
from support.evaluated_pairs import SIZE, made_up, save_as


def test_sets_without_a_common_picture_pass(tmp_path: Path) -> None:
    sets = [made_up(tmp_path, name, 4, seed) for seed, name in enumerate(("train", "test", "new"))]
    assert check_leaks(sets[0], sets[1], sets[2:]) == []


@pytest.mark.parametrize("leaking", ["train", "new"])
def test_the_pixels_of_a_test_image_are_found_in_another_format(
    tmp_path: Path, leaking: str
) -> None:
    sets = {
        name: made_up(tmp_path, name, 4, seed) for seed, name in enumerate(("train", "test", "new"))
    }
    original = sets["test"].pairs[2]
    copy = save_as(original.image, tmp_path / "copy.bmp")
    pairs = [*sets[leaking].pairs, replace(original, image=copy)]
    sets[leaking] = load_pairs(leaking, pairs, SIZE)
    with pytest.raises(DatasetError) as error:
        check_leaks(sets["train"], sets["test"], [sets["new"]])
    (problem,) = error.value.problems
    assert str(copy) in problem and str(original.image) in problem


def test_a_group_in_both_sets_is_named(tmp_path: Path) -> None:
    train = made_up(tmp_path, "train", 4, 0, group_of=2)
    test = made_up(tmp_path, "test", 4, 1, group_of=2)
    last = replace(test.pairs[-1], group="train 1")
    test = replace(test, pairs=(*test.pairs[:-1], last))
    with pytest.raises(DatasetError) as error:
        check_leaks(train, test, [])
    (problem,) = error.value.problems
    assert '"train 1"' in problem
    assert str(train.pairs[2].image) in problem and str(last.image) in problem


def test_masks_of_the_test_set_are_reported_but_no_error(tmp_path: Path) -> None:
    train, test = made_up(tmp_path, "train", 4, 0), made_up(tmp_path, "test", 4, 1)
    new = replace(made_up(tmp_path, "new", 4, 2), mask_hashes=test.mask_hashes)
    (note,) = check_leaks(train, test, [new])
    assert "4 of 4 masks of new" in note


def test_a_split_parts_no_group_and_loses_no_pair(tmp_path: Path) -> None:
    pairs = made_up(tmp_path, "train", 24, 0, group_of=3)
    for seed in range(5):
        rest, held = split(pairs, 0.25, seed)
        assert len(held) == 6
        assert not set(rest.groups or ()) & set(held.groups or ())
        assert sorted(rest.image_hashes + held.image_hashes) == sorted(pairs.image_hashes)


def test_a_single_group_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="4 pairs of one group"):
        split(made_up(tmp_path, "train", 4, 0, group_of=4), 0.2, 0)
