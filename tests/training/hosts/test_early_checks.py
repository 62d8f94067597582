"""What flags and headers tell is said before images are read or weights loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from siamese_diffusion.models.kinds import UNET
from siamese_diffusion.models.weights import write_weights
from siamese_diffusion.training import train_siamese
from siamese_diffusion.training.hosts.single_file import AUTOENCODER, CLIP_EMBEDDING
from siamese_diffusion.training.hosts.standalone import Standalone
from siamese_diffusion.training.run import start as session
from siamese_diffusion.training.train_siamese import main
from support.needs import Need
from support.small_runs import command

KEYS = {
    UNET + "input_blocks.0.0.weight": (320, 4, 3, 3),
    UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
    AUTOENCODER + "encoder.conv_in.weight": (128, 3, 3, 3),
    CLIP_EMBEDDING: (8, 768),
}


def write_keys(path: Path, keys: dict[str, tuple[int, ...]]) -> Path:
    write_weights(path, {key: torch.zeros(shape) for key, shape in keys.items()}, {})
    return path


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps its precision for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A file with the header of a base model, and little behind it."""
    return write_keys(tmp_path / "base.safetensors", KEYS)


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read, in order: "dataset", "base"."""
    read: list[str] = []

    def load_dataset(*_: object) -> None:
        read.append("dataset")
        raise RuntimeError("the dataset was read")

    def load_base_model(*_: object) -> None:
        read.append("base")

    monkeypatch.setattr(train_siamese, "load_dataset", load_dataset)
    monkeypatch.setattr(Standalone, "load_base_model", load_base_model)
    return read


NO_GPU = Need.NO_GPU.unless(not torch.cuda.is_available())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--optimizer_type=Adamm"], "--optimizer_type"),
        (["--optimizer_type=nowhere.Optimizer"], "pip install nowhere"),
        (["--optimizer_args=weight_decays=1"], "weight_decays"),
        (["--optimizer_args=decay"], "'decay' is not key=value"),
        (["--lr_scheduler=sawtooth"], "--lr_scheduler"),
        (["--sample_steps=1001"], "--sample_steps is 1001; it must be at least 1 and at most 999"),
        pytest.param(
            ["--mixed_precision=fp16"], "--mixed_precision fp16: needs a GPU", marks=NO_GPU
        ),
        pytest.param(["--xformers"], "--xformers: ", marks=NO_GPU),
        (["--torch_compile"], "--torch_compile: a C++ compiler is missing"),
        (["--log_with=all"], "wandb is missing; pip install wandb"),
        (["--resume=none/step00000001"], "none/step00000001"),
        (["--tokenizer_cache_dir=."], "--tokenizer_cache_dir .: vocab.json and merges.txt are"),
    ],
)
def test_flags(
    flags: list[str],
    expected: str,
    host_flags: list[str],
    touched: list[str],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(session.TRACKERS, "wandb", lambda: False)
    run = command(base, tmp_path / "prompt.jsonl", tmp_path / "out", *flags, *host_flags)
    assert main(run) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert expected in line
    assert touched == []


@pytest.mark.parametrize(
    ("name", "missing", "expected"),
    [
        ("none.safetensors", None, "no such"),
        ("lora.safetensors", {"lora_unet_mid_block.lora_up.weight": (1,)}, "this is a LoRA"),
    ],
)
def test_a_base_that_is_none(
    name: str,
    missing: dict[str, tuple[int, ...]] | None,
    expected: str,
    host_flags: list[str],
    touched: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if missing is not None:
        write_keys(tmp_path / name, missing)
    run = command(tmp_path / name, tmp_path / "prompt.jsonl", tmp_path / "out", *host_flags)
    assert main(run) == 2
    message = capsys.readouterr().err
    assert f"error: {tmp_path / name}: " in message and expected in message
    assert touched == []


@pytest.mark.parametrize(
    ("without", "expected"),
    [(AUTOENCODER, "holds no autoencoder"), ("cond_stage_model", "holds no text encoder")],
)
def test_a_base_without_its_encoders(
    without: str,
    expected: str,
    touched: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys = {key: shape for key, shape in KEYS.items() if not key.startswith(without)}
    base = write_keys(tmp_path / "base.safetensors", keys)
    assert main(command(base, tmp_path / "prompt.jsonl", tmp_path / "out")) == 2
    assert expected in capsys.readouterr().err
    assert touched == []


def test_an_autoencoder_for_sd_scripts_that_is_missing(
    sd_scripts: Path,
    touched: list[str],
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [f"--sd_scripts={sd_scripts}", f"--vae={tmp_path / 'none'}"]
    assert main(command(base, tmp_path / "prompt.jsonl", tmp_path / "out", *flags)) == 2
    assert f"error: --vae {tmp_path / 'none'}: no such file" in capsys.readouterr().err
    assert touched == []


def test_a_missing_package_that_is_needed_later(
    touched: list[str],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(command(base, tmp_path / "prompt.jsonl", tmp_path / "out")) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    assert touched == []


def test_what_is_right_is_read(touched: list[str], base: Path, tmp_path: Path) -> None:
    # What stands in for the reader raises.
    assert main(command(base, tmp_path / "prompt.jsonl", tmp_path / "out")) == 1
    assert touched == ["dataset"]
