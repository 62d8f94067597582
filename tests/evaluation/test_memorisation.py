"""Copies of training images are flagged, new images are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from siamese_diffusion.evaluation.diversity import measure_diversity
from siamese_diffusion.evaluation.features import Features
from siamese_diffusion.evaluation.fidelity import measure_fidelity
from siamese_diffusion.evaluation.memorisation import PIXEL_SPACE, measure_memorisation
from siamese_diffusion.evaluation.pair_sets import PairSet
from siamese_diffusion.evaluation.settings import Settings
from support.evaluated_pairs import made_up, rewritten

SETTINGS = Settings(resolution=32, draws=5)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PairSet]:
    folder = tmp_path_factory.mktemp("memorisation")
    return {
        "train": made_up(folder, "real_train", 40, 0, group_of=4),
        "test": made_up(folder, "real_test", 40, 1, group_of=4),
        "new": made_up(folder, "new", 40, 2),
    }


def pixels_as_features(train: PairSet) -> Features:
    """Every fourth pixel."""
    embed = lambda images: images[..., ::4, ::4].flatten(1)  # noqa: E731
    return Features("pixels", "pixels", train, embed, torch.device("cpu"))


def flagged(sets: dict[str, PairSet], pairs: PairSet) -> dict[str, dict]:
    features = pixels_as_features(sets["train"])
    rows = measure_memorisation(features, sets["train"], sets["test"], [pairs], seed=0)
    return {row["space"]: row for row in rows}


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_noisy_copies_are_flagged_and_their_originals_named(sets: dict[str, PairSet]) -> None:
    copies = rewritten(sets["train"], "copies", noisy)
    for row in flagged(sets, copies).values():
        assert row["flagged"]["low"] > 0.9
        first = row["closest"][0]
        assert first["synthetic"] == first["training"]
        assert all(group["flagged"] == group["training"] == 4 for group in row["groups"])


def test_copies_that_were_flipped_rotated_and_brightened_are_found(
    sets: dict[str, PairSet],
) -> None:
    def changed(image: np.ndarray) -> np.ndarray:
        return noisy(np.rot90(image[:, ::-1] // 2 + 60))

    found = flagged(sets, rewritten(sets["train"], "rotated", changed))[PIXEL_SPACE]
    assert found["flagged"]["low"] > 0.9
    assert found["closest"][0]["synthetic"] == found["closest"][0]["training"]


def test_new_images_are_flagged_no_more_than_chance_explains(sets: dict[str, PairSet]) -> None:
    for row in flagged(sets, sets["new"]).values():
        assert row["flagged"]["low"] <= 0.05


def test_a_few_copies_among_new_images_lead_the_list(sets: dict[str, PairSet]) -> None:
    copies = rewritten(sets["train"].take([3, 17]), "copies", noisy)
    row = flagged(sets, sets["new"].joined(copies))[PIXEL_SPACE]
    assert {found["synthetic"] for found in row["closest"][:2]} == {
        str(pair.image) for pair in copies.pairs
    }
    assert row["floor"]["min"] > 2 * row["closest"][1]["distance"]


def test_too_few_test_images_give_no_share_but_the_closest_pairs(sets: dict[str, PairSet]) -> None:
    few = {**sets, "test": sets["test"].take(range(8))}
    for row in flagged(few, sets["new"]).values():
        assert row["flagged"] is None
        assert "8 test images" in row["left_out"]
        assert row["closest"]


@pytest.mark.slow
def test_fidelity_ranks_new_images_before_noise_and_both_floors_are_beside(
    sets: dict[str, PairSet],
) -> None:
    def noise(image: np.ndarray) -> np.ndarray:
        return np.random.default_rng(image.sum()).integers(0, 255, image.shape, dtype=np.uint8)

    wrong = rewritten(sets["new"], "noise", noise)
    features = pixels_as_features(sets["train"])
    found = measure_fidelity(features, sets["test"], [sets["new"], wrong], SETTINGS)
    for name, floor in (("published", "real_test"), ("honest", "real_train")):
        rows = {row["set"]: row for row in found[name]["rows"]}
        assert found[name]["n"] == 20
        assert set(rows) == {floor, "new", "noise"}
        for figure in ("kid", "frechet"):
            assert rows["new"][figure]["mean"] < rows["noise"][figure]["mean"] / 5
            assert rows[floor][figure]["mean"] < rows["noise"][figure]["mean"] / 5
        assert rows["noise"]["precision"]["mean"] == 0
        textures = {row["set"]: row["frechet"]["mean"] for row in found[name]["radiomics"]}
        assert textures["new"] < textures["noise"] / 2


def test_too_few_images_leave_fidelity_out_with_the_reason(sets: dict[str, PairSet]) -> None:
    few = sets["new"].take(range(22))
    found = measure_fidelity(pixels_as_features(sets["train"]), sets["test"], [few], SETTINGS)
    assert "half of the smallest set is 11 images" in found["honest"]["left_out"]
    assert found["honest"]["rows"] == []


def test_a_set_that_repeats_itself_is_less_diverse(sets: dict[str, PairSet]) -> None:
    """Ten masks, each sampled four times with results that hardly differ."""
    repeated = rewritten(sets["new"].take(np.repeat(range(10), 4)), "repeated", noisy_by_place())
    features = pixels_as_features(sets["train"])
    real, new, same = measure_diversity(features, [sets["new"], repeated], SETTINGS)
    assert same["masks_repeated"] == 10
    assert same["within_mask"] < 0.3 * same["spread"]
    assert same["nearest"] < 0.3 * new["nearest"]
    assert new["within_mask"] is None
    assert real["spread"] == pytest.approx(new["spread"], rel=0.2)


def noisy_by_place():  # type: ignore[no-untyped-def]
    """Noise that differs from call to call."""
    rng = np.random.default_rng(0)
    return lambda image: np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def test_the_memory_of_features_is_by_content(sets: dict[str, PairSet], tmp_path: Path) -> None:
    calls: list[int] = []

    def embed(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images.flatten(1)

    features = Features("pixels", "pixels", sets["train"], embed, torch.device("cpu"))
    assert (features.of(sets["new"]) == features.of(sets["new"])).all()
    assert calls == [40]
