"""Training runs of three steps on a tiny base, and how two of them differ."""

from __future__ import annotations

from pathlib import Path

from siamese_diffusion.models.weights import StateDict, read_weights
from siamese_diffusion.training.train_siamese import main

from support.small_runs import metrics


def flags(base: Path, pairs: Path, out: Path, *more: str) -> list[str]:
    return [
        f"--pretrained_model_name_or_path={base}",
        f"--train_data={pairs}",
        f"--output_dir={out}",
        "--resolution=64",
        "--max_train_steps=3",
        "--learning_rate=1e-3",
        "--sample_steps=1",
        "--sample_count=1",
        "--save_precision=float",  # what is compared is not rounded
        *more,
    ]


def train(base: Path, pairs: Path, out: Path, *more: str) -> StateDict:
    assert main(flags(base, pairs, out, *more)) == 0
    return read_weights(out / "siamese.safetensors").tensors


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder)]


# AdamW turns the smallest gradients into whole steps, so single weights may differ by rounding.
ROUNDING = 3e-4  # a tenth of three steps of 1e-3


def differing(found: StateDict, expected: StateDict, tolerance: float) -> float:
    """Share of weights that differ by more than `tolerance`."""
    assert found.keys() == expected.keys()
    count = sum(int(((found[k] - v).abs() > tolerance).sum()) for k, v in expected.items())
    return count / sum(v.numel() for v in expected.values())
