"""Numbers that make no sense, for every numeric option of every script: one line, exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from siamese_diffusion.evaluation import command_line as evaluation
from siamese_diffusion.evaluation import evaluate
from siamese_diffusion.synthesis import command_line as synthesis
from siamese_diffusion.synthesis import synthesize
from siamese_diffusion.training import train_siamese
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.sd_scripts.aliases import KNOWN, kind_of
from siamese_diffusion.training.hosts.sd_scripts.flags import HOST_FLAGS
from siamese_diffusion.training.sd_scripts_options import HOST_RANGES, check_host_number
from support.small_datasets import problems, write_list

WRONG = ("nan", "inf", "-1", "1e308", str(10**12))
# What each takes nevertheless, and why.
TAKEN = {
    "--seed": {str(10**12): "a seed is any number of 64 bits"},
    "--sample_cfg": {"-1": "negative guidance shows what the network takes for the opposite"},
}
# Numbers of the dataset TOML, by key.
IN_TOML = (
    "batch_size", "validation_split", "caption_dropout_rate", "num_repeats", "resolution",
    "keep_tokens", "caption_tag_dropout_rate", "min_bucket_reso", "max_bucket_reso",
    "bucket_reso_steps",
)  # fmt: skip


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Those whose text is turned into a value: numbers, sizes, parts, shares."""
    actions = [item for item in parser._actions if item.option_strings and item.nargs != 0]
    return [a.option_strings[0] for a in actions if a.type not in (None, Path, synthesis._text)]


def numbers_of_training() -> list[str]:
    hints = get_type_hints(TrainConfig)
    found = [f.name for f in fields(TrainConfig) if {hints[f.name], *get_args(hints[f.name])} &
             {int, float}]  # fmt: skip
    return [f"--{name}" for name in (*found, "resolution")]


SYNTHESIS = ["--bundle=b.safetensors", "--masks=m", "--output_dir=out"]
EVALUATION = ["--real_train=a.jsonl", "--real_test=b.jsonl", "--synthetic=c=c.jsonl", "--out=out"]
TRAINING = ["--pretrained_model_name_or_path=b.ckpt", "--output_dir=out", "--train_data=p.jsonl"]
Main = Callable[[list[str]], int]


def cases() -> Iterator[Any]:
    for main, given, names in (
        (synthesize.main, SYNTHESIS, options_of(synthesis.build_parser())),
        (evaluate.main, EVALUATION, options_of(evaluation.build_parser())),
        (train_siamese.main, TRAINING, numbers_of_training()),
    ):
        for name in names:
            for value in WRONG:
                if value not in TAKEN.get(name, {}) or (main is evaluate.main):
                    yield pytest.param(
                        main, [*given, f"{name}={value}"], name, id=f"{name}={value}"
                    )


@pytest.mark.parametrize(("main", "arguments", "name"), cases())
def test_a_number_that_makes_no_sense(
    main: Main, arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(str(stop.code))
    [line] = [text for text in capsys.readouterr().err.splitlines() if "Host: " not in text]
    assert code == 2
    assert line.startswith("error: ") and name in line


def test_what_is_taken_is_right() -> None:
    assert synthesis.parse_args([*SYNTHESIS, f"--seed={10**12}"]).seed == 10**12
    assert TrainConfig(Path(), Path(), seed=10**12, sample_cfg=-1.0).sample_cfg == -1


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("name", sorted(HOST_RANGES))
def test_a_number_of_sd_scripts_own_flags(name: str, value: str) -> None:
    number = float(value)
    if number in HOST_RANGES[name]:
        assert (name, value) in {("adaptive_noise_scale", "-1"), ("noise_offset", "-1")}
        return
    with pytest.raises(ConfigError, match=f"^--{name} is .*it must be at least"):
        check_host_number(name, number)


def test_every_number_of_sd_scripts_has_a_range(sd_scripts: Path) -> None:
    from siamese_diffusion.training.hosts.sd_scripts.library import build_parser, load_library

    actions = build_parser(load_library(sd_scripts))._actions
    named = {item.dest for item in actions if item.type not in (None, str)} & HOST_FLAGS
    assert named == HOST_RANGES.keys()


def test_the_other_numbers_of_sd_scripts_decide_nothing_by_themselves() -> None:
    """They set a flag of ours, which has a range, or have no meaning."""
    named = {name for name in KNOWN if kind_of(name) in (int, float)}
    assert named == {
        "ddp_timeout", "save_last_n_epochs", "save_last_n_epochs_state", "save_last_n_steps",
        "save_last_n_steps_state", "save_n_epoch_ratio", "token_warmup_min", "token_warmup_step",
        "vae_batch_size",
    }  # fmt: skip


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("key", IN_TOML)
def test_a_number_of_a_dataset_toml(key: str, value: str, tmp_path: Path) -> None:
    write_list(tmp_path, [(32, 32)] * 3)
    (path := tmp_path / "x.toml").write_text(
        f"[general]\nenable_bucket = true\n{key} = {value}\n[[datasets]]\n[[datasets.subsets]]\n"
        f'image_dir = "{tmp_path}/images"\nconditioning_data_dir = "{tmp_path}/masks"\n'
    )
    report = problems(tmp_path, dataset_config=path)
    assert str(path) in report and key.replace("num_repeats", "repeats") in report
