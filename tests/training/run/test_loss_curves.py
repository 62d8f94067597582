"""losses.png: every term is there to be read, beside its validation."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from siamese_diffusion.training.run.loss_curves import draw_losses
from siamese_diffusion.training.run.pictures import plot_losses

STEPS = 400
TITLES = ["mask branch", "image branch", "consistency", "augmentation", "learning rate"]


def lines(terms: tuple[str, ...] = ("mask", "image", "consistency")) -> list[dict[str, float]]:
    """Losses as a run has them: equal at first, of very different sizes, the last one late."""
    found = []
    for step in range(1, STEPS + 1):
        share = (step - 1) / STEPS
        mask = 10.0 if step < 5 else 0.2 - 0.1 * share
        values = {"mask": mask, "image": mask - 1e-3 * share, "consistency": 1e-10 + 1e-3 * share}
        line = {f"loss_{term}": values[term] for term in terms}
        if share > 1 / 3 and "image" in terms:
            line["loss_augmentation"] = 0.05
        found.append({"step": step, **line, "learning_rate": 1e-5 * share, "seconds": 1.0})
        if step % 100 == 0:
            validation = {f"validation_{term}": 1.2 * values[term] for term in terms}
            found.append({"step": step, **validation})
    return found


def panels(content: list[dict[str, float]]) -> dict[str, Axes]:
    figure = draw_losses(content)
    assert figure is not None
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_each_term_has_a_panel_and_the_learning_rate_too() -> None:
    assert [*panels(lines())] == TITLES
    assert [*panels(lines(("mask",)))] == ["mask branch", "learning rate"]


def test_a_curve_is_the_mean_over_parts_of_the_run() -> None:
    found = panels(lines())
    losses = np.array([line["loss_image"] for line in lines() if "loss_image" in line])
    curve = found["image branch"].get_lines()[0]
    assert np.allclose(curve.get_ydata(), [losses[n : n + 8].mean() for n in range(0, STEPS, 8)])
    assert np.allclose(curve.get_xdata(), np.arange(0, STEPS, 8) + 4.5)
    rates = found["learning rate"].get_lines()[0].get_ydata()
    assert np.allclose(rates, 1e-5 * np.arange(STEPS) / STEPS)


def test_validation_is_beside_training() -> None:
    _, validation = panels(lines())["mask branch"].get_lines()
    assert np.array_equal(validation.get_xdata(), [100, 200, 300, 400])
    expected = 0.2 - 0.1 * (np.arange(1, 5) * 100 - 1) / STEPS
    assert np.allclose(validation.get_ydata(), 1.2 * expected)
    assert panels(lines())["mask branch"].get_title(loc="right") == "0.101, validation 0.120"
    without = [line for line in lines() if "seconds" in line]
    assert len(panels(without)["mask branch"].get_lines()) == 1


def test_neither_another_term_nor_the_first_steps_flatten_a_curve() -> None:
    """From step 100 on each curve takes a third of its panel's height or more."""
    for title, axes in panels(lines()).items():
        if title != "augmentation":  # constant here
            curve = axes.get_lines()[0]
            late = np.asarray(curve.get_ydata())[np.asarray(curve.get_xdata()) > 100]
            low, high = axes.get_ylim()
            assert axes.get_yscale() == "linear"
            assert np.ptp(late) / (high - low) > 1 / 3, title
            assert low <= late.min() and late.max() <= high


@pytest.mark.parametrize("count", [1, 2, 7])
def test_short_runs_are_drawn(count: int, tmp_path: Path) -> None:
    (history := tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines()[:count])
    )
    plot_losses(history, tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as image:
        assert image.width < image.height  # as a phone is held
        assert image.width >= 500


def test_without_losses_nothing_is_drawn(tmp_path: Path) -> None:
    plot_losses(tmp_path / "metrics.jsonl", tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()


def test_drawing_many_times_leaves_no_figure_behind(tmp_path: Path) -> None:
    def figures() -> int:
        return sum(type(thing) is Figure for thing in gc.get_objects())

    gc.collect()
    history, before = tmp_path / "metrics.jsonl", figures()
    history.write_text("".join(json.dumps(line) + "\n" for line in lines()))
    gc.disable()
    try:
        for _ in range(3):
            plot_losses(history, tmp_path / "losses.png")
        assert figures() == before
    finally:
        gc.enable()
