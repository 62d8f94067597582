"""Epochs at the command line, as steps of the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from siamese_diffusion.training.run.epochs import count_in_steps
from siamese_diffusion.training.train_siamese import main
from support.small_datasets import config
from support.small_runs import metrics
from support.tiny_runs import flags


@pytest.mark.parametrize(
    ("pairs", "processes", "steps", "interval"),
    [(6, 1, 18, 6), (7, 1, 21, 7), (6, 2, 9, 3), (1, 4, 1, 1), (100, 1, 300, 100)],
)
def test_an_epoch_shows_every_pair_once(
    pairs: int, processes: int, steps: int, interval: int, tmp_path: Path
) -> None:
    given = config(
        tmp_path, train_batch_size=1, gradient_accumulation_steps=1, max_train_epochs=3,
        save_every_n_epochs=1, sample_every_n_epochs=2,
    )  # fmt: skip
    found = count_in_steps(given, pairs, processes)
    assert (found.max_train_steps, found.save_every_n_steps) == (steps, interval)
    assert found.sample_every_n_steps == max(1, round(2 * pairs / processes))


def test_without_epochs_nothing_changes(tmp_path: Path) -> None:
    given = config(tmp_path)
    assert count_in_steps(given, 6, 1) is given


@pytest.mark.slow
def test_a_run_in_epochs(tiny: Path, pairs: Path, tmp_path: Path) -> None:
    arguments = [a for a in flags(tiny, pairs, tmp_path) if "max_train_steps" not in a]
    epochs = ["--max_train_epochs=2", "--save_every_n_epochs=1", "--train_batch_size=2"]
    assert main([*arguments, *epochs, "--sample_at_first"]) == 0
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "siamese-step00000003.safetensors").is_file()
    previews = sorted(path.name for path in (tmp_path / "sample").iterdir())
    assert previews == ["siamese-step00000000.png", "siamese-step00000006.png"]
