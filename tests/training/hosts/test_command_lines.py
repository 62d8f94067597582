"""Command lines of sd-scripts: those of the table in docs/sd-scripts.md, and what flags become."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from siamese_diffusion.training.command_line import parse_args
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.train_siamese import main
from support.paths import ROOT
from support.tiny_base import write_tiny_base

pytest_plugins = ["support.sd_scripts_fixtures"]
NEEDED = ["--pretrained_model_name_or_path=a", "--train_data=b", "--output_dir=c"]
# What the machine of the tests has not: it computes the same with what it has.
SUBSTITUTES = {
    "--xformers": "--sdpa", "--mixed_precision=fp16": "--mixed_precision=bf16",
    "--optimizer_type=AdamW8bit": "--optimizer_type=AdamW",
    "--optimizer_type=adamw8bit": "--optimizer_type=adamw",
    "adamw8bit": "adamw", "--use_8bit_adam": "--optimizer_type=AdamW",
}  # fmt: skip


class Lion(torch.optim.AdamW):
    """In place of the package lion-pytorch's."""


def table() -> list[tuple[str, str, str]]:
    """Rows (from, flags, what is said to become of them) of the section "Command lines"."""
    text = (ROOT / "docs/sd-scripts.md").read_text(encoding="utf-8")
    section = text.partition("\n## Command lines\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [(row[0], row[1].strip("`"), row[2]) for row in rows[2:]]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps its settings for the whole process; each line here has its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture
def base(host_flags: list[str], request: pytest.FixtureRequest) -> Path:
    """A small checkpoint that the chosen host loads."""
    name = "tiny" if "standalone" in host_flags[0] else "sd_scripts_checkpoint"
    return request.getfixturevalue(name)


@pytest.fixture
def here(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the table names, but for vae.safetensors."""
    text = (ROOT / "docs/sd-scripts.md").read_text(encoding="utf-8")
    example = text.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "polyps.toml").write_text(example, encoding="utf-8")
    (tmp_path / "polyps").symlink_to(pairs.parent)
    mask = next((pairs.parent / "masks").iterdir())
    (tmp_path / "prompts.txt").write_text(f"a polyp --n blurry --cn {mask}\n", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "lion_pytorch", SimpleNamespace(Lion=Lion))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("source", "flags", "fate"), table(), ids=[row[0] for row in table()])
def test_a_command_line_of_the_documentation(
    source: str,
    flags: str,
    fate: str,
    host_flags: list[str],
    base: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (here / "vae.safetensors").symlink_to(base)  # as its pages say, a whole checkpoint will do
    words = [SUBSTITUTES.get(word, word) for word in shlex.split(flags)]
    needed = [f"--pretrained_model_name_or_path={base}", f"--output_dir={here / 'out'}"]
    with caplog.at_level("INFO"):
        code = main([*needed, *words, *host_flags, "--dry_run"])
    named = re.findall(r"`(--\w+)`", fate)
    if fate.startswith("refused"):
        error = capsys.readouterr().err
        assert code == 2
        assert re.findall(r"\n  (--\w+):", error) == named
        return
    if fate.startswith("with sd-scripts as host") and "standalone" in host_flags[0]:
        error = capsys.readouterr().err
        assert code == 2
        assert "needs sd-scripts as host" in error
        return
    assert code == 0, capsys.readouterr().err
    assert "trains" in fate
    left_out = [re.findall(r"--\w+", line) for line in caplog.messages if "left out" in line]
    assert left_out == ([named] if named else [])
    assert "parameters" in caplog.text
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--use_8bit_adam"], {"optimizer_type": "AdamW8bit"}),
        (["--use_lion_optimizer"], {"optimizer_type": "Lion"}),
        (["--debug_dataset"], {"dry_run": True}),
        (["--caption_extention=.tags"], {"caption_extension": ".tags"}),
        (["--save_last_n_epochs=3"], {"keep_last_n": 3}),
        (["--save_last_n_epochs=3", "--save_last_n_epochs_state=1"], {"keep_last_n": 3}),
        (["--save_last_n_steps=1000"], {"keep_last_n": 3}),
        (
            ["--save_last_n_steps=250", "--save_every_n_steps=100"],
            {"keep_last_n": 3, "save_every_n_steps": 100},
        ),
        (
            ["--max_train_epochs=10", "--save_n_epoch_ratio=4"],
            {"save_every_n_epochs": 2, "max_train_epochs": 10},
        ),
        (["--logging_dir=logs"], {"log_with": "tensorboard"}),
        (["--logging_dir=logs", "--log_with=wandb"], {"log_with": "wandb"}),
        (["--save_model_as=safetensors", "--network_module=networks.lora"], {}),
        (["--sdpa", "--v2", "--save_state", "--cache_latents"], {}),
        # Off, or as sd-scripts has it by default.
        (["--caption_dropout_every_n_epochs=0", "--zero_stage", "2", "--zero_stage=0"], {}),
        (["--keep_tokens_separator=", "--save_last_n_epochs=0", "--vae_batch_size=1"], {}),
        (["--noise_offset=0", "--clip_skip=1", "--lr_scheduler_num_cycles", "1"], {}),
        (["--adaptive_noise_scale=0.0", "--max_token_length=75", "--vae="], {}),
        (["--noise_offset=0.1", "--noise_offset=0"], {}),
    ],
)
def test_what_flags_become(flags: list[str], expected: dict[str, object]) -> None:
    config, plain = parse_args([*NEEDED, *flags]), parse_args(NEEDED)
    changed = {
        name: value
        for name, value in vars(config).items()
        if value != getattr(plain, name) and name != "logging_dir"
    }
    assert changed == expected
    assert isinstance(config, TrainConfig)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--use_8bit_adam", "--optimizer_type=Lion"], "--use_8bit_adam and --optimizer_type"),
        (["--use_8bit_adam", "--use_lion_optimizer"], "different things"),
        (["--save_model_as=ckpt"], "--save_model_as is 'ckpt'; expected safetensors"),
        (["--network_module=networks.loha"], "--network_module is 'networks.loha'"),
        (["--save_n_epoch_ratio=4"], "--save_n_epoch_ratio: needs --max_train_epochs"),
        (
            ["--save_last_n_steps=5", "--save_every_n_epochs=1"],
            "--save_last_n_steps: checkpoints are saved by epochs",
        ),
        (["--zero_terminal_snr"], "--zero_terminal_snr: at a step without any signal"),
        (["--color_aug", "--keep_tokens_separator=0"], "--keep_tokens_separator: text embeddings"),
        (["--caption_dropout_every_n_epochs", "2"], "--caption_dropout_every_n_epochs: captions"),
        (["--zero_stage=3"], "--zero_stage: choose DeepSpeed with accelerate launch"),
        (["--noise_offset=0", "--noise_offset=0.1"], "--noise_offset: needs sd-scripts as host"),
        (
            ["--lr_scheduler=polynomial", "--lr_scheduler_power=0"],
            "--lr_scheduler_power: needs sd-scripts as host",
        ),
        (["--output_config"], "--output_config: needs --config_file"),
    ],
)
def test_flags_that_contradict_each_other(flags: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_args([*NEEDED, *flags])
    assert expected in str(error.value)


def test_one_warning_names_all_that_has_no_meaning(caplog: pytest.LogCaptureFixture) -> None:
    parse_args([*NEEDED, "--lowram", "--highvram", "--ddp_timeout=5"])
    assert caplog.messages == [
        "Note: left out, without a meaning here: --ddp_timeout, --highvram, --lowram."
    ]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--lr_scheduler_power=2"], "--lr_scheduler_power (for polynomial)"),
        (
            ["--noise_offset_random_strength", "--multires_noise_discount", "0.5", "--lowram"],
            "--lowram, --multires_noise_discount (for multires_noise_iterations), "
            "--noise_offset_random_strength (for noise_offset)",
        ),
        (
            ["--noise_offset=0", "--adaptive_noise_scale=0.1"],
            "--adaptive_noise_scale (for noise_offset)",
        ),
        (
            ["--lr_decay_steps=5", "--lr_scheduler=cosine"],
            "--lr_decay_steps (for warmup_stable_decay)",
        ),
    ],
)
def test_the_warning_names_flags_that_others_leave_without_effect(
    flags: list[str], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert parse_args([*NEEDED, *flags]).host_options == {}
    assert caplog.messages == [f"Note: left out, without a meaning here: {named}."]


def test_the_command_line_switches_off_what_a_file_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "flags.toml"
    file.write_text(
        "noise_offset = 0.1\ncaption_dropout_every_n_epochs = 2\nvae_batch_size = 4\n"
        "max_token_length = 75\nmax_timestep = 1000\nclip_skip = 1\noutput_config = true\n",
        encoding="utf-8",
    )
    flags = ["--noise_offset=0", "--caption_dropout_every_n_epochs=0", "--vae_batch_size=1"]
    assert parse_args([*NEEDED, f"--config_file={file}", *flags]) == parse_args(NEEDED)
    assert caplog.messages == []
    file.write_text("lr_scheduler_power = 2\n", encoding="utf-8")
    assert parse_args([*NEEDED, f"--config_file={file}"]) == parse_args(NEEDED)
    [line] = caplog.messages
    assert "--lr_scheduler_power (for polynomial)" in line


def write_flags(*flags: str) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_args([*flags, "--output_config"])
    assert stop.value.code == 0


def test_output_config_writes_what_config_file_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    flags = [
        *NEEDED, "--use_8bit_adam", "--save_last_n_epochs=3", "--learning_rate=1e-7", "--flip_aug",
        "--optimizer_args", "weight_decay=0.01", "betas=(0.9, 0.99)", "--logging_dir=lo gs",
        "--wandb_run_name=Pöl\"yp\\\x7f", "--caption_separator=\n", f"--seed={2**64 - 1}",
        "--wandb_api_key=secret-key", "--lowram", "--sd_scripts=elsewhere",
    ]  # fmt: skip
    with caplog.at_level("INFO"):
        write_flags(*flags, f"--config_file={tmp_path / 'flags'}")
    file = tmp_path / "flags.toml"
    assert caplog.messages == [
        "Note: left out, without a meaning here: --lowram.",
        f"Flags written to {file}; give it with --config_file.",
        "Note: not in it: --sd_scripts; a file may not name code. Give that beside it.",
    ]
    assert "secret-key" not in file.read_text(encoding="utf-8")
    again = parse_args([f"--config_file={file}", "--sd_scripts=elsewhere"])
    assert again.to_json() == parse_args(flags).to_json()


def test_output_config_neither_overwrites_nor_writes_what_no_run_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "flags.toml"
    for wrong, expected in (
        ("--learning_rate=-1", "--learning_rate is -1.0"),
        ("--wandb_run_name=\udcff", r"'\\udcff' is no character"),
    ):
        with pytest.raises(ConfigError, match=expected):
            parse_args([f"--config_file={file}", "--output_config", wrong])
        assert not file.exists()
    write_flags(f"--config_file={file}", "--learning_rate=1e-3")  # the rest is given beside it
    before = file.read_text(encoding="utf-8")
    assert parse_args([*NEEDED, f"--config_file={file}"]).learning_rate == 1e-3
    with pytest.raises(ConfigError, match=r"flags\.toml is there already"):
        parse_args([f"--config_file={file}", "--output_config", "--seed=1"])
    assert file.read_text(encoding="utf-8") == before
    monkeypatch.setenv("RANK", "1")  # one process of several writes
    write_flags(f"--config_file={file}", "--seed=1")
    assert file.read_text(encoding="utf-8") == before


def test_output_config_writes_the_hosts_own_flags(sd_scripts: Path, tmp_path: Path) -> None:
    flags = [
        *NEEDED, f"--sd_scripts={sd_scripts}", "--min_snr_gamma=5", "--debiased_estimation_loss",
        "--lr_scheduler_type=StepLR", "--lr_scheduler_args", "step_size=5", "gamma=0.5",
        "--metadata_title=--a b",
    ]  # fmt: skip
    file = tmp_path / "flags.toml"
    write_flags(*flags, f"--config_file={file}")
    again = parse_args([f"--config_file={file}", f"--sd_scripts={sd_scripts}"])
    assert again.to_json() == parse_args(flags).to_json()
    assert again.host_options["lr_scheduler_args"] == ["step_size=5", "gamma=0.5"]


def test_a_file_says_what_a_command_line_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "flags.toml"
    file.write_text(
        "use_8bit_adam = true\nsave_last_n_epochs = 4\nlowram = true\nhighvram = false\n"
        'save_model_as = "safetensors"\nmax_data_loader_n_workers = 8\n'
        "cache_latents = true\nmax_train_epochs = 3\n",
        encoding="utf-8",
    )
    config = parse_args([*NEEDED, f"--config_file={file}", "--save_last_n_epochs=5"])
    assert (config.optimizer_type, config.keep_last_n, config.max_train_epochs) == (
        "AdamW8bit",
        5,
        3,
    )
    assert config.max_data_loader_n_workers == 8
    assert caplog.messages == ["Note: left out, without a meaning here: --lowram."]
    file.write_text("use_8bit_adam = 1\nsave_last_n_epochs = '4'\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        parse_args([*NEEDED, f"--config_file={file}"])
    assert "use_8bit_adam = 1: expected true or false" in str(error.value)
    assert "save_last_n_epochs = '4': expected integer" in str(error.value)


def test_a_key_of_wandb_is_written_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    config = parse_args([*NEEDED, "--wandb_api_key=secret-key"])
    assert os.environ["WANDB_API_KEY"] == "secret-key"
    assert "secret-key" not in config.to_json()
