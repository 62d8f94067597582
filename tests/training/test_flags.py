"""Values of flags that no run can have: refused by one message with the value and the range."""

from __future__ import annotations

import math
from dataclasses import Field, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.train_siamese import main
from support.small_datasets import config
from support.small_runs import command


def numbers() -> list[Field]:
    hints = get_type_hints(TrainConfig)
    kinds = {name: {hint, *get_args(hint)} for name, hint in hints.items()}
    return [item for item in fields(TrainConfig) if kinds[item.name] & {int, float}]


def refused(folder: Path, **flags: object) -> str:
    with pytest.raises(ConfigError) as error:
        config(folder, **flags)
    return str(error.value)


@pytest.mark.parametrize("item", numbers(), ids=lambda item: item.name)
def test_every_number_has_a_range(item: Field, tmp_path: Path) -> None:
    limits = item.metadata["range"]
    wrong = [math.nan, math.inf, -math.inf, limits.low - 1, limits.high + 1]
    for value in [*wrong, *([limits.high] if limits.below else [])]:
        message = refused(tmp_path, **{item.name: value})
        assert message == f"--{item.name} is {value}; it must be {limits}."
    assert item.default is None or item.default in limits


def test_ranges_as_people_know_them(tmp_path: Path) -> None:
    assert refused(tmp_path, learning_rate=0.0).endswith("at least 1e-12 and at most 1000.")
    assert refused(tmp_path, validation_split=1.0).endswith("it must be at least 0 and below 1.")
    assert refused(tmp_path, ema_decay=1.5).endswith("it must be at least 0 and at most 1.")
    assert refused(tmp_path, train_batch_size=0).endswith("at least 1 and at most 100000.")
    assert refused(tmp_path, sample_steps=1000).endswith("it must be at least 1 and at most 999.")
    assert refused(tmp_path, sample_cfg=math.nan).endswith("at least -100 and at most 100.")
    assert config(tmp_path, sample_cfg=-1.0, save_every_n_steps=0, seed=2**64 - 1)


def test_a_host_s_number_that_is_none(tmp_path: Path) -> None:
    message = refused(tmp_path, host_options={"noise_offset": math.nan})
    assert message == "--noise_offset is nan; it must be at least -10 and at most 10."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../evil", "without /"),
        ("a\\b", "without /"),
        ("/tmp/evil", "without /"),
        ("..", "it must be a name"),
        (".", "it must be a name"),
        ("", "it must be a name"),
        ("  ", "it must be a name"),
        ("two\nlines", "control characters"),
        ("null\0", "control characters"),
        ("x" * 201, "longer than 200 bytes"),
        ("\N{LATIN SMALL LETTER A WITH OGONEK}" * 101, "200"),
    ],
)
def test_names_that_would_leave_the_folder(
    name: str,
    expected: str,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (base := tmp_path / "base.ckpt").touch()
    assert main(command(base, pairs, tmp_path / "runs/out", f"--output_name={name}")) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: --output_name is {name[:40]!r}"[:-1])
    assert expected in message
    assert [path.name for path in tmp_path.iterdir()] == ["base.ckpt"]


@pytest.mark.parametrize("name", ["polyps", "Pölypen 2, 384 px", "x" * 200, "a.b-c_d"])
def test_names_that_make_files(name: str, tmp_path: Path) -> None:
    assert config(tmp_path, output_name=name).output_name == name
    longest = RunFolder(tmp_path, name).weights(99_999_999)
    (tmp_path / f".{longest.name}.4194304.tmp").touch()


def test_not_a_number_in_a_file_of_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flags.toml"
    file.write_text("learning_rate = nan\n", encoding="utf-8")
    needed = [f"--config_file={file}", "--pretrained_model_name_or_path=a", "--output_dir=b"]
    assert main(needed) == 2
    assert "error: --learning_rate is nan; it must be at least 1e-12" in capsys.readouterr().err
