"""How errors and Ctrl-C are shown: one line, from one process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from siamese_diffusion.training import merge_bundle, train_siamese
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.errors import (
    CacheError,
    ConfigError,
    NotFiniteError,
    TrainingError,
)
from siamese_diffusion.training.run.trainer import Trainer
from siamese_diffusion.training.train_siamese import main
from support.paths import ROOT
from support.processes import launch_script, run
from support.small_runs import command
from support.tiny_base import write_tiny_base

pytestmark = pytest.mark.slow  # whole trainings


@pytest.fixture
def handler_kept() -> Iterator[None]:
    """A script that Ctrl-C has ended leaves Ctrl-C to the system."""
    # Ignored, where a shell has started the tests in the background.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, kept)


# Wrong arguments


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--max_train_steps=many"],
            "error: argument --max_train_steps: invalid int value: 'many'",
        ),
        (["--mixed_precision=fp8"], "error: argument --mixed_precision: invalid choice: 'fp8'"),
        (["--learning_rat=1"], "error: unrecognized arguments: --learning_rat=1"),
    ],
)
def test_wrong_arguments_get_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command(tmp_path, tmp_path, tmp_path), *arguments])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(expected) and line.endswith("; see --help")


def test_merging_without_arguments_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        merge_bundle.main(["base.safetensors"])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: the following arguments are required: bundle, merged; see --help"


def test_a_wrong_flag_of_sd_scripts_gets_one_line(
    sd_scripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--sd_scripts={sd_scripts}", "--min_snr_gamma=five"]
    with pytest.raises(SystemExit) as stop:
        main([*command(tmp_path, tmp_path, tmp_path), *flags])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: argument --min_snr_gamma: invalid float value: 'five'; see --help"


# Ctrl-C


@pytest.mark.usefixtures("handler_kept")
def test_ctrl_c_while_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train_siamese, "choose_host", load)
    assert main(command(tmp_path, tmp_path, tmp_path / "out")) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"
    monkeypatch.setattr(merge_bundle, "merge_files", load)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert merge_bundle.main(["base", "bundle", "merged"]) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


@pytest.mark.usefixtures("handler_kept")
def test_ctrl_c_twice_in_training(
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def step(_: Trainer) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "train_step", step)
    base = write_tiny_base(tmp_path / "base.safetensors")
    assert main(command(base, pairs, tmp_path / "out")) == 130
    shown = capsys.readouterr().err
    assert shown.endswith("stopped by Ctrl-C\n")
    assert "Traceback" not in shown


@pytest.mark.parametrize("script", ["train_siamese.py", "merge_bundle.py"])
def test_ctrl_c_while_a_script_is_imported(script: str, tmp_path: Path) -> None:
    """At the first import of a package that takes long."""
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    script_path = ROOT / "training" / script
    result = run([sys.executable, script_path], env={"PYTHONPATH": str(tmp_path)})
    # Python ends by the signal itself, which shells show as 130.
    assert result.returncode in (-signal.SIGINT, 130)
    assert result.stderr == "stopped by Ctrl-C\n"


# Several processes


@pytest.mark.parametrize(
    ("error", "rank", "shown"),
    [
        (ConfigError("a flag"), "0", True),
        (ConfigError("a flag"), "1", False),
        (NotFiniteError("a loss of all processes"), "1", False),
        (CacheError("a file of this process"), "1", True),
        (TrainingError("a device of this process"), "1", True),
    ],
)
def test_an_error_of_all_processes_is_shown_by_one(
    error: Exception,
    rank: str,
    shown: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: TrainConfig) -> None:
        raise error

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(train_siamese, "run", fail)
    with caplog.at_level("INFO"):
        code = main(command(tmp_path, tmp_path, tmp_path))
    assert code == (1 if isinstance(error, TrainingError) else 2)
    assert capsys.readouterr().err == (f"error: {error}\n" if shown else "")


def launch(folder: Path, *flags: str) -> list[str]:
    """What accelerate's launcher and the script say about a dataset that is not there."""
    base = folder / "base.ckpt"
    base.touch()
    result = launch_script(
        [*flags, "--num_machines=1"],
        command(base, folder / "none.jsonl", folder / "out"),
        {"ACCELERATE_USE_CPU": "true"},
    )
    assert result.returncode != 0
    return result.stderr.splitlines()


def test_two_processes_say_everything_once(tmp_path: Path) -> None:
    lines = launch(tmp_path, "--multi_gpu", "--num_processes=2")
    assert lines.count("Host: standalone") == lines.count("Processes: 2 on cpu") == 1
    assert len([line for line in lines if line.startswith("error: ")]) == 1


def test_a_launcher_that_starts_fewer_processes_is_noticed(tmp_path: Path) -> None:
    [line] = [
        line
        for line in launch(tmp_path, "--cpu", "--num_processes=2")
        if line.startswith("Processes: ")
    ]
    assert line.startswith("Processes: 1 on cpu; accelerate launch was asked for more")
