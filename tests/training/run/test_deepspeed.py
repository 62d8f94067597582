"""DeepSpeed ZeRO stage 2 equals the same processes without it (skipped without DeepSpeed)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support.needs import Need
from support.processes import launch_two
from support.small_runs import metrics
from support.tiny_base import write_tiny_base


@pytest.fixture(autouse=True)
def deepspeed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        Need.DEEPSPEED.skip()


def launch(arguments: list[str], deepspeed: bool) -> None:
    """Two processes on CPUs, as `accelerate launch` starts them on GPUs."""
    zero_2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    settings = {**zero_2, "DS_ACCELERATOR": "cpu"} if deepspeed else {"ACCELERATE_USE_CPU": "true"}
    launch_two(arguments, settings)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder)]


@pytest.mark.slow
def test_zero_2_trains_saves_and_resumes(pairs: Path, tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "tiny.safetensors")
    arguments = [
        f"--pretrained_model_name_or_path={base}", f"--train_data={pairs}", "--resolution=64",
        "--train_batch_size=2", "--max_train_steps=4", "--learning_rate=1e-3", "--sample_steps=1",
        "--sample_count=1", "--save_every_n_steps=2",
    ]  # fmt: skip
    for name, deepspeed in (("plain", False), ("zero", True)):
        launch([*arguments, f"--output_dir={tmp_path / name}"], deepspeed)
    assert losses(tmp_path / "zero") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)

    resumed = tmp_path / "resumed"
    state = tmp_path / "zero" / "state" / "step00000002"
    launch([*arguments, f"--output_dir={resumed}", f"--resume={state}"], True)
    assert losses(resumed) == pytest.approx(losses(tmp_path / "zero")[2:], rel=1e-5)
