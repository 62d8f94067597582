"""Short training runs, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

SMALL_RUN = [
    "--resolution=64",
    "--train_batch_size=2",
    "--sample_steps=2",
    "--sample_count=2",
    "--learning_rate=1e-4",
    "--save_precision=float",  # what is compared is not rounded
]


def command(base: Path, pairs: Path | None, out: Path, *flags: str) -> list[str]:
    """Arguments of train_siamese.py; without `pairs` the flags must name them."""
    return [
        f"--pretrained_model_name_or_path={base}",
        *([f"--train_data={pairs}"] if pairs else []),
        f"--output_dir={out}",
        *SMALL_RUN,
        *flags,
    ]


def metrics(out: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(out: Path) -> list[dict[str, float]]:
    """The loss terms of every step, by name."""
    return [{k: v for k, v in line.items() if k.startswith("loss")} for line in metrics(out)]
