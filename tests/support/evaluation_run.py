"""One evaluation of made-up pairs by the command line, which several tests look at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from siamese_diffusion.tools.pairs import write_pairs

from support import no_network
from support.paths import EVALUATE_SCRIPT, ROOT
from support.processes import Finished, run

SIZE = 32
BUDGET = ("--quick", "--steps", "8", "--batch_size", "4", "--seeds", "2", "--ratios", "0.5,1")


def evaluate(*flags: object) -> Finished:
    """evaluate.py with these flags; it is killed if it sends anything to anyone."""
    return run(
        [*no_network.PREFIX, sys.executable, EVALUATE_SCRIPT, *flags], env={"OMP_NUM_THREADS": "1"}
    )


def evaluate_as_module(folder: Path, *flags: object) -> Finished:
    """The same as `python -m siamese_diffusion.evaluation.evaluate`, from an empty folder."""
    (place := folder / "packages").mkdir()
    (place / "siamese_diffusion").symlink_to(ROOT, target_is_directory=True)
    command = [sys.executable, "-m", "siamese_diffusion.evaluation.evaluate"]
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(place)}
    return run([*command, *flags], cwd=place, env=env)


def with_groups(path: Path, size: int) -> Path:
    """Give every `size` neighbouring lines a group."""
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for number, entry in enumerate(entries):
        entry["group"] = f"{path.parent.name} {number // size}"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")
    return path


@pytest.fixture(scope="session")
def evaluation_data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("päirs of mine")
    train = with_groups(write_pairs(folder / "train", 48, SIZE, 0), 2)
    test = with_groups(write_pairs(folder / "test", 24, SIZE, 1), 2)
    new = write_pairs(folder / "new", 44, SIZE, 2)
    return [f"--real_train={train}", f"--real_test={test}", f"--synthetic=new={new}"]


@pytest.fixture(scope="session")
def evaluation_out(evaluation_data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    flags = (f"--out={out}", f"--scores={out.parent / 'scores.jsonl'}", "--keep=0.02,0.98")
    done = evaluate(*evaluation_data, *flags, *BUDGET)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out / "report.html")
    return out


@pytest.fixture(scope="session")
def evaluation_report(evaluation_out: Path) -> dict[str, Any]:
    return json.loads((evaluation_out / "report.json").read_text("utf-8"))
