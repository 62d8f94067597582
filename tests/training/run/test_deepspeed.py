"""DeepSpeed ZeRO stage 2 equals training without it (skipped without DeepSpeed)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from siamese_diffusion.training.train_siamese import main
from support.needs import Need
from support.processes import launch_two
from support.small_runs import metrics
from support.tiny_base import write_tiny_base


@pytest.fixture(autouse=True)
def deepspeed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        Need.DEEPSPEED.skip()


def launch(arguments: list[str]) -> None:
    """Two processes on CPUs with ZeRO 2, as `accelerate launch` starts them on GPUs."""
    zero_2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    launch_two(arguments, {**zero_2, "DS_ACCELERATOR": "cpu"})


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder)]


@pytest.mark.slow
def test_zero_2_trains_saves_and_resumes(pairs: Path, tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "tiny.safetensors")
    arguments = [
        f"--pretrained_model_name_or_path={base}", f"--train_data={pairs}", "--resolution=64",
        "--max_train_steps=4", "--learning_rate=1e-3", "--sample_steps=1",
        "--sample_count=1", "--save_every_n_steps=2",
    ]  # fmt: skip
    # One process with the batch of two: that this is the same is tested in test_trainer.py.
    assert main([*arguments, "--train_batch_size=4", f"--output_dir={tmp_path / 'plain'}"]) == 0
    arguments.append("--train_batch_size=2")
    launch([*arguments, f"--output_dir={tmp_path / 'zero'}"])
    assert losses(tmp_path / "zero") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)

    resumed = tmp_path / "resumed"
    state = tmp_path / "zero" / "state" / "step00000002"
    launch([*arguments, f"--output_dir={resumed}", f"--resume={state}"])
    assert losses(resumed) == pytest.approx(losses(tmp_path / "zero")[2:], rel=1e-5)
