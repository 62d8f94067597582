"""The study's grid, measures and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from siamese_diffusion.benchmarks.ablation import __main__ as ablation
from siamese_diffusion.benchmarks.ablation import measures, plots, run_cell
from siamese_diffusion.benchmarks.ablation.cells import ALL, Cell, grid
from siamese_diffusion.tools.nuclei import Settings


def test_cells_have_names_that_can_be_read_back() -> None:
    assert len(set(grid())) == len(grid())
    assert [Cell.parse(cell.name) for cell in grid()] == grid()
    assert Cell.parse("mask_only-all-seed2") == Cell("mask_only", ALL, 2)
    with pytest.raises(ValueError, match="RECIPE-TILES-seedN"):
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
    first, again, other = (run_cell.augmented(mask, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, mask)
    assert 0.4 < first.sum() / mask.sum() < 2


def test_a_finished_grid_trains_nothing_and_bad_names_are_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = Cell("published", 40, 0)
    run = run_cell.CellRun(tmp_path, tmp_path / "base", cell, Settings())
    run.folder.mkdir()
    run.figures.write_text("{}")
    assert not run.done
    (run.folder / "synthetic").mkdir()
    (run.folder / "synthetic" / "prompt.jsonl").touch()
    base = f"--base={tmp_path / 'base'}"
    assert ablation.main([str(tmp_path), base, "--cells", cell.name]) == 0
    assert ablation.main([str(tmp_path), base, "--cells", "x"]) == 2
    assert capsys.readouterr().err.count("error: ") == 1
    assert ablation.main([str(tmp_path), base, "--budget_minutes", "0"]) == 1


def row(recipe: str, tiles: int, mean: float) -> dict[str, Any]:
    value = {"mean": mean, "low": mean - 0.02, "high": mean + 0.03}
    return {
        "cell": {"recipe": recipe, "tiles": tiles, "seed": 0},
        "alignment": value,
        "alignment_of_each": {"a": mean},
        "spread": {"mean": 12.3, "low": 11.0, "high": 13.0},
        "training": {"steps": 450, "seconds": 600},
    }


def test_tables_and_plots_come_from_the_cells_figures(tmp_path: Path) -> None:
    for recipe, tiles, mean in (("published", ALL, 0.81), ("mask_only", 40, 0.7)):
        folder = tmp_path / f"{recipe}-{tiles}"
        folder.mkdir()
        (folder / "figures.json").write_text(json.dumps(row(recipe, tiles, mean)))
    (tmp_path / "unfinished").mkdir()
    rows = plots.collect(tmp_path)
    assert all("alignment_of_each" not in found for found in rows)
    *_, first, second = plots.grid_table(rows).splitlines()
    assert first == "| `mask_only` | 40 | 0 | 0.700 (0.680 to 0.730) | 12.3 | 10 |"
    assert second.startswith("| `published` | all | 0 | 0.810")
    settings = [
        {"steps": steps, "cfg": cfg, "alignment": {"mean": 0.5 + cfg / 10}, "seconds_an_image": 0.2}
        for steps in (5, 20)
        for cfg in (1.5, 4.0)
    ]
    assert plots.settings_table(settings).splitlines()[2] == "| 5 | 0.650 | 0.900 | 0.20 |"
    plots.draw_grid(rows, tmp_path / "grid.png")
    plots.draw_settings(settings, tmp_path / "settings.png")
    for name in ("grid.png", "settings.png"):
        assert (tmp_path / name).stat().st_size > 5000
