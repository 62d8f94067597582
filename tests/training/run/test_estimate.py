"""What a run says that it will take on disk, against what it takes."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from siamese_diffusion.training.run import start
from siamese_diffusion.training.run.estimate import DiskEstimate, bytes_in, estimate_disk
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.train_siamese import main
from support.tiny_runs import flags, train

pytestmark = pytest.mark.slow  # whole trainings

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    "more",
    [
        ["--save_every_n_steps=1", "--keep_last_n=1"],
        ["--save_every_n_steps=2", "--keep_last_n=2", "--ema_decay=0.9"],
        ["--save_every_n_steps=0", "--optimizer_type=SGDNesterov"],
    ],
    ids=["AdamW", "EMA", "SGD without states"],
)
def test_the_estimate_is_what_a_run_takes(
    more: list[str], tiny: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    estimates: list[DiskEstimate] = []
    prune = RunFolder.prune

    def measure(folder: RunFolder, keep: int) -> None:
        sizes.append(bytes_in(folder.folder))  # when a state was written and none removed yet
        prune(folder, keep)

    def remember(*arguments: object) -> None:
        estimates.append(estimate_disk(*arguments))  # type: ignore[arg-type]

    monkeypatch.setattr(RunFolder, "prune", measure)
    monkeypatch.setattr(start, "check_disk", remember)
    train(tiny, pairs, tmp_path, "--train_batch_size=2", *more)
    [estimate] = estimates
    assert estimate.missing == ""
    assert estimate.peak == pytest.approx(max(sizes), rel=0.02)
    assert estimate.final == pytest.approx(bytes_in(tmp_path), rel=0.02)
    assert estimate.state == pytest.approx(sizes[0], rel=0.02)


def test_an_unknown_optimizers_state_is_named(
    tiny: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = flags(tiny, pairs, tmp_path / "out", "--dry_run", "--optimizer_type=Adafactor")
    with caplog.at_level("INFO"):
        assert main(arguments) == 0
    assert "for each state; the state of Adafactor comes on top" in caplog.text


def test_a_disk_without_room_for_a_state_is_refused_at_the_start(
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - 4096, 4096))
    for more in ([], ["--dry_run"]):
        assert main(flags(tiny, pairs, tmp_path / "out", *more)) == 2
        message = capsys.readouterr().err
        assert f"--output_dir {tmp_path / 'out'}: 0.00 GiB are free there" in message
        assert not (tmp_path / "out").exists()


def test_a_disk_without_room_for_all_that_is_kept_is_warned_of(
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = ["--save_every_n_steps=1", "--dry_run"]
    estimates: list[DiskEstimate] = []
    with monkeypatch.context() as patch:
        patch.setattr(start, "check_disk", lambda *a: estimates.append(estimate_disk(*a)))
        assert main(flags(tiny, pairs, tmp_path / "out", *more)) == 0
    [estimate] = estimates
    for free, warned in ((estimate.peak - 1, True), (estimate.peak, False)):
        caplog.clear()
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(2**50, 0, free))
        assert main(flags(tiny, pairs, tmp_path / "out", *more)) == 0
        assert ("lower --keep_last_n" in caplog.text) == warned
