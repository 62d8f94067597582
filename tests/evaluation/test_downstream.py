"""Training segmenters: the same for a seed, resumed, and honest about what helps."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from siamese_diffusion.evaluation import downstream
from siamese_diffusion.evaluation.arms import BASELINE, plan
from siamese_diffusion.evaluation.downstream import ALL, measure_downstream
from siamese_diffusion.evaluation.pair_sets import PairSet
from siamese_diffusion.evaluation.segmenters import SEGMENTERS, colour_statistics
from siamese_diffusion.evaluation.settings import Settings
from siamese_diffusion.evaluation.train_segmenter import Trained, Training, train
from support import no_network
from support.evaluated_pairs import made_up, with_shuffled_masks
from support.needs import Need
from support.processes import children, kill_and_await_its_children, wait_until

linux: pytest.MarkDecorator = Need.LINUX.unless(no_network.AVAILABLE)
pytestmark = pytest.mark.slow  # whole trainings

SETTINGS = Settings(
    resolution=32,
    seeds=2,
    segmenters=("unet_small",),
    ratios=(5.0,),
    steps=60,
    batch_size=8,
    validations=4,
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PairSet]:
    folder = tmp_path_factory.mktemp("downstream")
    return {
        "train": made_up(folder, "real_train", 5, 0),
        "test": made_up(folder, "real_test", 30, 1),
        "more": made_up(folder, "more", 30, 2),
    }


@pytest.fixture(scope="module")
def measured(
    sets: dict[str, PairSet], tmp_path_factory: pytest.TempPathFactory
) -> tuple[downstream.Downstream, Path]:
    wrong = with_shuffled_masks(sets["more"], "wrong")
    folder = tmp_path_factory.mktemp("runs")
    return (
        measure_downstream(sets["train"], sets["test"], [sets["more"], wrong], SETTINGS, folder),
        folder,
    )


def differences(found: downstream.Downstream) -> dict[str, dict]:
    return {row["arm"]: row["segmenters"][ALL]["dice"]["difference"] for row in found.table()}


def test_more_real_pairs_show_a_gain_and_wrong_masks_a_loss(
    measured: tuple[downstream.Downstream, Path],
) -> None:
    found = differences(measured[0])
    assert found["more only"]["low"] > 0
    assert found["real + 5x more"]["low"] > 0
    assert found["wrong only"]["high"] < 0
    assert found[BASELINE]["mean"] == found[BASELINE]["low"] == found[BASELINE]["high"] == 0


def test_a_finished_evaluation_is_not_trained_again(
    sets: dict[str, PairSet],
    measured: tuple[downstream.Downstream, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> Trained:
        raise AssertionError("trained again")

    first, folder = measured
    monkeypatch.setattr(downstream, "train", never)
    again = measure_downstream(sets["train"], sets["test"], [sets["more"]], SETTINGS, folder)
    rows = {row["arm"]: row for row in first.table()}
    assert again.table() == [rows[row["arm"]] for row in again.table()]
    assert len(again.judges) == SETTINGS.seeds
    with pytest.raises(AssertionError, match="trained again"):
        changed = replace(SETTINGS, steps=41)
        measure_downstream(sets["train"], sets["test"], [sets["more"]], changed, folder)


@pytest.mark.parametrize("name", ["unet_small", "fpn_small"])
def test_training_is_decided_by_the_seed(sets: dict[str, PairSet], name: str) -> None:
    settings = replace(SETTINGS, steps=6, validations=2)

    def weights(seed: int, number: int) -> torch.Tensor:
        torch.manual_seed(np.random.default_rng().integers(1 << 30))  # must not matter
        job = Training(name, sets["more"], sets["train"], True, number)
        statistics = colour_statistics(sets["train"].images)
        trained = train(job, statistics, replace(settings, seed=seed))
        return torch.cat([value.flatten() for value in trained.segmenter.parameters()])

    first = weights(0, 0)
    assert torch.equal(first, weights(0, 0))
    assert not torch.equal(first, weights(0, 1))
    assert not torch.equal(first, weights(1, 0))


def trained(folder: Path) -> dict[str, tuple[int, float]]:
    """Best step and validation Dice of each training, by its key."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    return {key: (one["best_step"], one["validation_dice"]) for key, one in found.items()}


def test_the_test_pairs_change_neither_weights_nor_the_choice_of_them(
    sets: dict[str, PairSet], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, seeds=1, steps=12)
    other = replace(sets["more"].take(range(10)), name="other")
    first, second = (
        measure_downstream(sets["train"], test, [sets["more"]], settings, tmp_path / test.name)
        for test in (sets["test"], other)
    )
    assert len(trained(tmp_path / "other")) == len(first.arms)
    assert trained(tmp_path / "other") == trained(tmp_path / "real_test")
    for one, same in zip(first.judges, second.judges, strict=True):
        weights, again = one.state_dict(), same.state_dict()
        assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert first.values[BASELINE]["unet_small"].shape != second.values[BASELINE]["unet_small"].shape


@pytest.mark.usefixtures("one_thread")
def test_trainings_in_processes_give_the_same_figures(
    sets: dict[str, PairSet], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, seeds=1, steps=6)
    pairs = (sets["train"], sets["test"], [sets["more"]], settings)
    alone = measure_downstream(*pairs, tmp_path / "alone")
    together = measure_downstream(*pairs, tmp_path / "together", jobs=2)
    assert [arm.name for arm in alone.arms] == [arm.name for arm in together.arms]
    for arm, values in alone.values.items():
        for segmenter, found in values.items():
            np.testing.assert_allclose(together.values[arm][segmenter], found, atol=1e-5)
    assert len(together.judges) == len(alone.judges) == 1


@linux
def test_processes_that_train_end_with_the_one_that_was_killed(
    sets: dict[str, PairSet], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, steps=1_000_000)
    pairs = (sets["train"], sets["test"], [sets["more"]], settings, tmp_path, 2)
    process = multiprocessing.get_context("spawn").Process(target=measure_downstream, args=pairs)
    process.start()
    assert process.pid
    wait_until(lambda: len(children(process.pid)) >= 2, "two start")
    kill_and_await_its_children(process)


def test_training_leaves_the_callers_random_numbers_alone(sets: dict[str, PairSet]) -> None:
    job = Training("fpn_small", sets["more"], sets["train"], True, 0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(job, colour_statistics(sets["train"].images), replace(SETTINGS, steps=2, validations=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmenter_gives_a_logit_a_pixel_and_features_an_image(name: str) -> None:
    from siamese_diffusion.evaluation.segmenters import Segmenter

    segmenter = Segmenter(name, torch.zeros(3), torch.ones(3)).eval()
    images = torch.rand(2, 3, 64, 96)
    assert segmenter(images).shape == (2, 1, 64, 96)
    features = segmenter.features(images)
    assert features.shape[0] == 2 and features.ndim == 2
    assert not torch.allclose(features[0], features[1])


def test_arms_that_cannot_be_made_are_named_with_the_reason(sets: dict[str, PairSet]) -> None:
    empty = replace(sets["more"].take([]), name="empty")
    arms, left_out = plan(10, [sets["more"], empty], (0.5, 1.0, 5.0))
    assert [arm.name for arm in arms] == [
        "real",
        BASELINE,
        "more only",
        "real + 0.5x more",
        "real + 1x more",
    ]
    assert left_out == [
        "real + 5x more: needs 50 synthetic pairs (5 for each of 10 real ones); more has 30",
        "empty: no pair is left in it",
    ]


def test_a_lower_ratio_holds_a_part_of_a_higher_ones_pairs(sets: dict[str, PairSet]) -> None:
    arms, _ = plan(10, [sets["more"]], (1.0, 2.0))
    low, high = (arm.pool(sets["test"].take(range(10)), 0, 0) for arm in arms[-2:])
    assert len(low) == 20 and len(high) == 30
    assert set(low.image_hashes) < set(high.image_hashes)
