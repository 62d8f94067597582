"""What a session does around its training: order, trackers, processes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from accelerate import Accelerator, DistributedType
from siamese_diffusion.training.data.batches import TrainingData
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.standalone import Standalone
from siamese_diffusion.training.run import start, trainer
from siamese_diffusion.training.run.start import describe_processes
from siamese_diffusion.training.train_siamese import main
from support.processes import wait_until
from support.small_datasets import config
from support.tiny_runs import flags, train


def test_nothing_is_encoded_before_networks_and_optimizer_are_made(
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Hours of encoding would be lost."""
    encoded: list[TrainingData] = []
    monkeypatch.setattr(TrainingData, "prepare", lambda data, *_: encoded.append(data))

    def fail(*_: object) -> None:
        raise ConfigError("no such networks")

    monkeypatch.setattr(trainer, "make_networks", fail)
    assert main(flags(tiny, pairs, tmp_path / "out")) == 2
    assert "error: no such networks" in capsys.readouterr().err
    assert encoded == []
    assert not (tmp_path / "out").exists()


def test_trackers_have_the_projects_name_and_the_documented_folders(
    tiny: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tiny, pairs, tmp_path, "--log_with=all", "--train_batch_size=2", "--max_train_steps=1")
    [file] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    # wandb writes from a process of its own.
    wait_until(lambda: b"siamese-diffusion" in file.read_bytes(), "the project in wandb's file")
    assert list(tmp_path.glob("logs/events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("flags", "folder", "run"),
    [
        ({}, "runs/out/logs", "siamese"),
        (
            {"logging_dir": "kept logs", "log_prefix": "db_", "wandb_run_name": "polyps 1"},
            r"kept logs/db_20\d{12}",
            "polyps 1",
        ),
        ({"logging_dir": "kept logs", "output_name": "polyps"}, r"kept logs/20\d{12}", "polyps"),
    ],
)
def test_logs_are_where_and_under_the_name_that_the_flags_say(
    flags: dict[str, str], folder: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    given = {k: Path(v) if k == "logging_dir" else v for k, v in flags.items()}
    settings = config(tmp_path, log_with="all", **given)
    accelerator = Accelerator(cpu=True)
    start.start_trackers(settings, accelerator, {"seed": 1})
    accelerator.log({"loss": 0.5}, step=1)
    try:
        assert accelerator.get_tracker("wandb", unwrap=True).name == run
    finally:
        accelerator.end_training()
    events = tmp_path.rglob("events.out.tfevents.*")
    places = {file.parent.relative_to(tmp_path).as_posix() for file in events}
    [place] = {place for place in places if re.fullmatch(folder, place)}
    # Hyperparameters are in a folder of their own below.
    assert all(each == place or each.startswith(f"{place}/") for each in places)
    assert list((tmp_path / "runs/out/wandb").glob("offline-run-*/run-*.wandb"))


def test_a_wandb_that_is_not_logged_in_is_said_before_anything_is_encoded(
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a login would be kept
    wandb.teardown()  # what it has read of the environment in an earlier test
    encoded: list[TrainingData] = []
    monkeypatch.setattr(TrainingData, "prepare", lambda data, *_: encoded.append(data))
    assert main(flags(tiny, pairs, tmp_path / "out", "--log_with=wandb")) == 2
    [line] = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error: ")]
    assert line.startswith("error: --log_with wandb: wandb says: ")
    assert line.endswith("Run `wandb login`, or set WANDB_MODE=offline to log to files only.")
    assert encoded == []


@pytest.mark.parametrize(
    ("environment", "alone"),
    [
        ({}, False),
        ({"MASTER_PORT": "29500"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, True),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "1", "WORLD_SIZE": "1"}, False),
    ],
)
def test_how_many_processes_run(
    environment: dict[str, str], alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    accelerator = Accelerator(cpu=True)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    described = describe_processes(accelerator)
    assert described.startswith("1 on cpu")
    assert ("asked for more" in described) == alone


@pytest.mark.parametrize(
    ("stage", "flag", "expected"),
    [
        (3, {}, "ZeRO stage 3: stages up to 2"),
        (2, {"gradient_accumulation_steps": 2}, "--gradient_accumulation_steps: not together"),
        (2, {"gradient_checkpointing": True}, "--gradient_checkpointing: not together"),
    ],
)
def test_what_deepspeed_does_not_do_is_said_before_it_starts(
    stage: int,
    flag: dict[str, object],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin = SimpleNamespace(zero_stage=stage)
    deepspeed = SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED,
        state=SimpleNamespace(deepspeed_plugin=plugin),
        mixed_precision="no",
    )
    monkeypatch.setattr(start, "make_accelerator", lambda _: deepspeed)
    settings = config(tmp_path, **flag)
    with pytest.raises(ConfigError, match=expected):
        start.check(settings, Standalone())  # of which no file is there


def test_pairs_that_a_run_never_shows_are_noted(
    tiny: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        train(tiny, pairs, tmp_path, "--train_batch_size=2", "--max_train_steps=1")
    assert "Note: in this run each pair is seen 0 to 1 times; 4 of 6 pairs are never" in caplog.text


def test_a_dry_run_says_how_often_pairs_are_seen_and_by_what(
    tiny: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        more = ["--dry_run", "--train_batch_size=4", "--max_train_steps=4"]
        assert main(flags(tiny, pairs, tmp_path / "out", *more)) == 0
    assert "each pair is seen 2 to 3 times (most / least: 1.50)" in caplog.text
    assert "processes         1 on cpu" in caplog.text
