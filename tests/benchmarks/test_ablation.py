"""The study's grid, measures and tables."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from siamese_diffusion.benchmarks.ablation import __main__ as ablation
from siamese_diffusion.benchmarks.ablation import (
    collect,
    crop_sets,
    downstream,
    likeness,
    masks,
    measures,
    plots,
    run_cell,
)
from siamese_diffusion.benchmarks.ablation.cells import ALL, Cell, grid
from siamese_diffusion.evaluation.arms import BASELINE, Arm
from siamese_diffusion.evaluation.contrast import Fifths, contrast
from siamese_diffusion.evaluation.downstream import Downstream
from siamese_diffusion.evaluation.settings import Settings as Evaluation
from siamese_diffusion.tools.nuclei import Settings
from siamese_diffusion.tools.nuclei_crops import Crop, of_tiles, read_crops


def test_cells_have_names_that_can_be_read_back() -> None:
    assert len(set(grid())) == len(grid())
    assert [Cell.parse(cell.name) for cell in grid()] == grid()
    assert Cell.parse("mask_only-all-seed2") == Cell("mask_only", ALL, 2)
    with pytest.raises(ValueError, match="ARM-TILES-seedN"):
        Cell.parse("published")


def test_intervals_are_those_of_the_normal_law_and_wider_where_groups_agree() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    found = measures.interval(list(values))
    assert found["mean"] == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.1)
    repeated = list(np.repeat(values[:40], 10))
    labels = [str(n // 10) for n in range(400)]
    by_image, by_group = measures.interval(repeated), measures.interval(repeated, labels)
    assert by_group["high"] - by_group["low"] > 2 * (by_image["high"] - by_image["low"])


def test_alignment_is_that_of_the_bright_part_and_spread_that_of_grey_values() -> None:
    mask = np.zeros((64, 64), bool)
    mask[8:40, 8:24] = True
    bright = np.where(mask, 200, 20).astype(np.uint8)[..., None].repeat(3, 2)
    assert measures.alignment([mask], [bright]) == [1.0]
    other = np.zeros((64, 64), bool)
    other[8:40, 24:40] = True
    assert measures.alignment([other], [bright]) == [0.0]
    assert measures.spread([bright, bright, bright]) == 0
    lighter = (bright.astype(int) + 10).astype(np.uint8)
    assert measures.spread([bright, lighter, lighter]) == pytest.approx(20 / 3)
    assert measures.colour([bright, lighter]) == 0
    bright[..., 0] += 6
    assert measures.colour([bright, lighter]) == pytest.approx(3)


def test_new_masks_are_black_and_white_and_the_seed_decides_them() -> None:
    mask = np.zeros((64, 64), bool)
    mask[20:44, 16:40] = True
    first, again, other = (masks.augmented(mask, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, mask)
    assert 0.4 < first.sum() / mask.sum() < 2


def test_random_masks_are_many_separate_nuclei_of_a_crops_coverage() -> None:
    drawn = [masks.random_nuclei(seed) for seed in range(40)]
    assert np.array_equal(drawn[7], masks.random_nuclei(7))
    assert len({mask.tobytes() for mask in drawn}) == 40
    assert all(0.04 <= mask.mean() <= 0.6 and mask.shape == (64, 64) for mask in drawn)
    # Borders cut nuclei, as they do in real crops, where most have some at a border.
    at_border = [mask[[0, -1]].any() or mask[:, [0, -1]].any() for mask in drawn]
    assert np.mean(at_border) > 0.8


class Painter:
    """A sampler whose images show their masks, and the seed."""

    def images(self, shown: list[np.ndarray], seeds: range, *_settings: object) -> list[np.ndarray]:
        pairs = zip(shown, seeds, strict=True)
        return [np.repeat((mask * 100 + seed % 97)[..., None], 3, axis=2) for mask, seed in pairs]


def test_pairs_of_augmented_and_of_random_masks_are_datasets_that_segmenters_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_cell, "LARGEST_SET", 70)
    real = of_tiles(read_crops("train"), 2, 0)
    run = run_cell.CellRun(tmp_path, tmp_path, Cell("mask_only", 2, 0), Settings())
    for kind in run.missing_pairs():
        run.write_pairs(Painter(), real, kind)  # type: ignore[arg-type]
    assert run.missing_pairs() == []
    sets = ["mask_only", "mask_only_random", downstream.OTHER_TILES]
    draw = downstream.read_draw(tmp_path, 2, 0, sets)
    assert [pair.image.name for pair in draw.real.pairs] == [crop.name for crop in real]
    count = min(70, 10 * len(real))
    for name in sets[:2]:
        pairs = draw.synthetic[name]
        assert len(pairs) == count
        lighter = pairs.images[..., 0] >= 100
        assert np.array_equal(lighter, pairs.masks)
    others = draw.synthetic[downstream.OTHER_TILES]
    assert len(others) == 5 * len(real)
    taken, tiles = (
        {pair.image.name.rsplit("_", 1)[0] for pair in found.pairs} for found in (draw.real, others)
    )
    assert len(taken) == 2 and not taken & tiles


def test_dimmed_pairs_keep_a_part_of_their_contrast(tmp_path: Path) -> None:
    draw = downstream.read_draw(tmp_path, 4, 0, ["real_dimmed"])
    dim = draw.synthetic["real_dimmed"]
    names = [pair.image for pair in draw.real.pairs]
    taken = [names.index(pair.image) for pair in dim.pairs]
    assert 0 < len(taken) < len(names)  # those that no training chooses its weights by
    shares = contrast(dim) / contrast(draw.real.take(taken))
    assert np.all((shares > 0.24) & (shares < 1.01))
    assert shares.min() < 0.4 and shares.max() > 0.85
    assert np.array_equal(dim.masks, draw.real.take(taken).masks)


def test_repeated_pairs_have_another_contrast_each_time(tmp_path: Path) -> None:
    draw = downstream.read_draw(tmp_path, 4, 0, ["real_dimmed_repeated"])
    found = draw.synthetic["real_dimmed_repeated"]
    each = len(found) // 5
    assert len({*found.image_hashes}) == len(found) == 5 * each
    assert np.array_equal(found.masks, np.tile(found.masks[:each], (5, 1, 1)))


def test_when_time_is_up_the_parts_that_are_left_wait_for_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_cell, "LARGEST_SET", 20)
    monkeypatch.setattr(run_cell, "Sampler", lambda *_: Painter())
    cell, now = Cell("mask_only", 2, 0), time.monotonic()
    late = run_cell.CellRun(tmp_path, tmp_path, cell, Settings(), until=now - 1)
    late.run_folder.mkdir(parents=True)
    late.bundle.touch()
    with pytest.raises(run_cell.UnfinishedError, match="mask_only-2-seed0: time is up"):
        late.run()
    assert not (tmp_path / cell.name).exists()
    again = run_cell.CellRun(tmp_path, tmp_path, cell, Settings(), until=now + 600)
    monkeypatch.setattr(run_cell.CellRun, "score", lambda *_: {"alignment": 1})
    again.run()
    assert again.done


def test_a_finished_grid_trains_nothing_and_bad_names_are_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = Cell("published", 40, 0)
    run = run_cell.CellRun(tmp_path, tmp_path / "base", cell, Settings())
    run.folder.mkdir()
    run.figures.write_text("{}")
    assert not run.done
    for kind in run.missing_pairs():
        (run.folder / kind).mkdir()
        (run.folder / kind / "prompt.jsonl").touch()
    base = f"--base={tmp_path / 'base'}"
    assert ablation.main([str(tmp_path), base, "--cells", cell.name]) == 0
    assert ablation.main([str(tmp_path), base, "--cells", "x"]) == 2
    assert capsys.readouterr().err.count("error: ") == 1
    assert ablation.main([str(tmp_path), base, "--budget_minutes", "0"]) == 1


def figures(mean: float, each: list[float]) -> dict[str, Any]:
    value = {"mean": mean, "low": mean - 0.02, "high": mean + 0.03}
    return {
        "alignment": value,
        "alignment_of_each": each,
        "fidelity": {"kid": 0.01, "frechet": 14.5, "precision": 0.98, "recall": 0.97},
        "spread": {"mean": 12.3, "low": 11.0, "high": 13.0},
    }


def row(cell: Cell, mean: float, each: list[float]) -> dict[str, Any]:
    branch = figures(mean, each) if cell.arm == "published" else None
    return {"cell": asdict(cell), **figures(mean, each), "image_branch": branch}


def test_arms_are_compared_mask_by_mask_over_the_seeds_that_both_have() -> None:
    nothing = np.zeros((64, 64), np.uint8)
    crops = [Crop(f"tile_{n}", str(n // 4), nothing, nothing > 0) for n in range(60)]
    base = np.random.default_rng(0).uniform(0.5, 0.9, 40)
    cells = {
        cell: row(cell, 0.8, list(base + gain))
        for cell, gain in (
            (Cell("published", 40, 0), 0.02),
            (Cell("published", 40, 1), 0.04),
            (Cell("published", 40, 2), 0.9),  # has no other side
            (Cell("mask_only", 40, 0), 0.0),
            (Cell("mask_only", 40, 1), 0.0),
        )
    }
    [found] = collect.compare(cells, crops)
    assert (found["arm"], found["against"], found["seeds"]) == ("published", "mask_only", 2)
    assert found["difference"]["mean"] == pytest.approx(0.03)
    assert found["difference"]["low"] == pytest.approx(0.02)
    assert found["better_in"] == 1
    assert found["difference"]["n"] == 15
    cells[Cell("mask_only", 40, 0)]["alignment_of_each"].pop()
    with pytest.raises(ValueError):
        collect.compare(cells, crops)


def test_fewer_masks_are_some_of_all_with_the_same_noise() -> None:
    """And come from all fields of view."""
    crops = read_crops("test")
    numbers = run_cell.scored(crops, 100)
    assert len(numbers) == 100 and numbers == sorted(set(numbers))
    groups = {crop.group for crop in crops}
    assert {crops[number].group for number in numbers} == groups
    assert run_cell.scored(crops, 1_359) == list(range(len(crops)))


def test_what_alignment_is_compared_with_is_counted_in_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two images that show a mask and half of it; the third mask is in no image."""
    masks = np.zeros((3, 64, 64), bool)
    masks[0, :32], masks[1, :16], masks[2, 48:] = True, True, True
    shown = (masks[0], masks[0], masks[0])
    crops = [
        Crop(f"tile_{number}", "a", np.where(seen, 200, 20).astype(np.uint8), mask)
        for number, (mask, seen) in enumerate(zip(masks, shown, strict=True))
    ]
    monkeypatch.setattr(collect, "load_autoencoder", Same)
    found = collect.real_figures(crops)
    assert found["masks"] == 3
    assert found["real"] == found["autoencoder"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["shuffled"] == pytest.approx((2 * 1 + 2 * 0.5 + 2 * 0) / 6)


class Same:
    """An autoencoder that loses nearly nothing."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return 0.99 * latents


def test_another_grid_goes_to_files_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(collect, "read_crops", lambda split: read_crops(split)[:4])
    monkeypatch.setattr(collect, "Likeness", lambda _: SimpleNamespace(floor=lambda: {"kid": 0.1}))
    (tmp_path / "results").mkdir()
    names = {"main": "", "few": "few"}
    cells = [Cell(arm, 5, seed) for arm in ("mask_only", "published") for seed in (0, 1)]
    for folder, cell in [("main", Cell("published", 40, 0)), *(("few", cell) for cell in cells)]:
        (place := tmp_path / folder / cell.name).mkdir(parents=True)
        (place / "figures.json").write_text(json.dumps(row(cell, 0.8, [0.8] * 4)))
        (place / "mask_branch.png").write_text(cell.name)
    for folder, name in names.items():
        assert collect.main([str(tmp_path / folder), "--name", name]) == 0
    found = {path.name: path.read_text("utf-8") for path in (tmp_path / "results").iterdir()}
    assert len(json.loads(found["grid.json"])) == 1 and len(json.loads(found["grid_few.json"])) == 4
    assert json.loads(found["comparisons.json"]) == []
    assert json.loads(found["comparisons_few.json"])[0]["seeds"] == 2
    assert json.loads(found["real_few.json"])["training_images"] == {"kid": 0.1}
    assert {name: text for name, text in found.items() if name.endswith(".png")} == {
        "mask_branch.png": "published-40-seed0",
        "mask_branch_few-5-mask_only.png": "mask_only-5-seed0",
        "mask_branch_few-5-published.png": "published-5-seed0",
    }


def test_tables_and_plots_come_from_the_cells_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cell, mean in ((Cell("published", ALL, 0), 0.81), (Cell("mask_only", 40, 0), 0.7)):
        folder = tmp_path / cell.name
        folder.mkdir()
        (folder / "figures.json").write_text(json.dumps(row(cell, mean, [mean])))
    (tmp_path / "unfinished").mkdir()
    cells = collect.read_cells(tmp_path)
    rows = [collect.without_each(found) for found in cells.values()]
    assert "alignment_of_each" not in json.dumps(rows)
    *_, first, second, branch = plots.grid_table(rows).splitlines()
    assert first.startswith("| `mask_only` | 40 | 0 | 0.700 (0.680 to 0.730) | 0.010 | 14.5 |")
    assert second.startswith("| `published` | all | 0 | 0.810")
    assert branch.startswith("| its image branch | | | 0.810")
    settings = [
        {
            "sampler": plots.PUBLISHED_SAMPLER,
            "steps": steps,
            "cfg": cfg,
            "alignment": {"mean": 0.5 + cfg / 10},
            "seconds_an_image": 0.2,
        }
        for steps in (5, 20)
        for cfg in (1.5, 4.0)
    ]
    settings.append({**settings[0], "sampler": "euler, normal", "steps": 7})
    assert plots.settings_table(settings).splitlines()[2] == "| 5 | 0.650 | 0.900 | 0.20 |"
    change = {"mean": -0.01, "low": -0.02, "high": -0.005}
    all_dice = {"all": {"dice": {"mean": 0.87, "difference": change}}}
    fifths = [{"contrast": [10.2 * n, 10.2 * (n + 1)], "difference": change} for n in range(5)]
    contents = {
        "grid": rows,
        "comparisons": [],
        "sampler_settings": settings,
        "downstream-40-fpn": {
            "arms": [{"arm": "real", **all_dice}],
            "compared": [{"arm": "a", "against": "b", **all_dice}],
            "by_contrast": {"real": fifths},
        },
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    plots.show(tmp_path)
    printed, shown = capsys.readouterr().out, "-0.0100 (-0.0200 to -0.0050)"
    assert f"| real | 0.8700 | {shown} |" in printed
    assert f"| a | b | {shown} |" in printed
    assert "| trained on | 0 to 10 | 10 to 20 | 20 to 31 | 31 to 41 | 41 to 51 |" in printed
    assert f"| real |{f' {shown} |' * 5}" in printed
    for name in ("trade_off.png", "sampler_settings.png", "downstream-40-fpn.png"):
        assert (tmp_path / name).stat().st_size > 5000


def test_a_file_of_figures_is_named_by_what_is_not_as_usual() -> None:
    for more, name in (
        ([], "downstream-5-fpn"),
        (["--seeds", "0"], "downstream-5-fpn"),
        (["--arms", "real_dimmed"], "downstream-5-fpn-real_dimmed"),
        (["--seeds", "0", "3"], "downstream-5-fpn-draws-0-3"),
    ):
        flags = ["out", "--tiles", "5", "--segmenters", "fpn", *more]
        assert downstream.file_name(downstream.parse_args(flags)) == name


def test_arms_have_their_rivals() -> None:
    for arm, other in (
        ("real + 1x published", "real + 1x mask_only"),
        ("mask_only_dimmed only", "real_dimmed only"),
        ("real + 5x published_dimmed", "real + 5x real_dimmed"),
        ("real + 1x mask_only", "real + 1x mask_only"),  # none
    ):
        assert downstream.rival(arm) == other


def test_segmenters_of_several_draws_are_pooled_image_by_image() -> None:
    test = crop_sets.crop_set("test", read_crops("test")[:40])
    arms = (Arm(BASELINE, True), Arm("real", False))

    def draw(gain: float) -> Downstream:
        base = np.random.default_rng(0).uniform(0.5, 0.9, (1, 40, 3))
        values = {BASELINE: {"fpn": base, "unet": base}, "real": {"fpn": base + gain, "unet": base}}
        return Downstream(Evaluation(), arms, (), test, test, test, values, ())

    baseline, real = downstream.pooled([draw(0.02), draw(0.04)])
    assert baseline["all"]["dice"]["difference"]["mean"] == 0
    assert real["fpn"]["dice"]["difference"]["mean"] == pytest.approx(0.03)
    assert real["all"]["dice"]["difference"]["mean"] == pytest.approx(0.015)
    assert len(real["fpn"]["dice"]["of_each_training"]) == 2
    fifths = downstream.by_contrast([draw(0.02), draw(0.04)], Fifths.of(test))["real"]
    assert [row["difference"]["mean"] for row in fifths] == pytest.approx([0.015] * 5)
    ends = [end for row in fifths for end in row["contrast"]]
    assert ends == sorted(ends) and ends[0] < ends[-1]


@pytest.mark.long
def test_likeness_knows_real_images_from_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(split: str) -> list[Crop]:
        return read_crops(split)[::40][:30]

    monkeypatch.setattr(likeness, "read_crops", few)
    monkeypatch.setattr(likeness, "STEPS", 20)
    found = likeness.Likeness(tmp_path)
    real = [crop.image[..., None].repeat(3, 2) for crop in read_crops("train")[3::40][:30]]
    noise = list(np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8))
    near, far = found.fidelity(real), found.fidelity(noise)
    assert near["kid"] < far["kid"]
    assert near["frechet"] < far["frechet"]
    assert near["coverage"] > far["coverage"]
    same = [image for image in real[:3] for _ in range(2)]
    assert found.spread(same, 2) == pytest.approx(0, abs=1e-3)
    assert found.spread(real[:6], 2) > 0.1
