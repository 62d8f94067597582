"""Where the checkout and what the tests read of it lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
EVALUATE_SCRIPT = ROOT / "evaluation" / "evaluate.py"
TRAIN_SCRIPT = ROOT / "training" / "train_siamese.py"
