"""What training repeats bit for bit on this machine's device, and how far the rest lies apart.

python -m siamese_diffusion.benchmarks.determinism                       # for docs/reliability.md
python -m siamese_diffusion.benchmarks.determinism --out measured.json

Trains a nano model (on a CPU a tiny one) with random weights on made-up pairs for a few steps,
again and again: the same command, resumed, in other batches, in half precision, with and without
--deterministic.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from transformers import CLIPTextConfig

from ..models.weights import read_weights
from ..tools.nano import CLIP_L, SHAPE, build_nano
from ..tools.pairs import write_pairs
from ..training.method.ldm_keys import UNetShape
from ..training.train_siamese import main as train
from .measure import machine
from .report import RELIABILITY, RELIABILITY_DOCS, Result, quote_in_docs, read_results, table

# One layer of CLIP-L: the text encoder is not trained, and the runs are many.
TEXT = CLIPTextConfig(**{**CLIP_L.to_dict(), "num_hidden_layers": 1, "intermediate_size": 64})
TINY = UNetShape((32,), (True,), 1, 768, False)
STEPS, BATCH = 4, 4
NAME = "determinism"
FLAGS = (
    *("--host=standalone", "--learning_rate=1e-3", f"--max_train_steps={STEPS}"),
    *("--save_every_n_steps=0", "--sample_steps=2", "--sample_count=2", "--max_grad_norm=1"),
)
WHOLE = f"--train_batch_size={BATCH}"
HALF = "--mixed_precision=bf16"
# Two trainings each: what is asked, and the flags of both.
CASES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "the same command twice": ((WHOLE,), (WHOLE,)),
    "the same command twice, bf16": ((WHOLE, HALF), (WHOLE, HALF)),
    "a batch of 4, and 2 x 2": (
        (WHOLE,),
        ("--train_batch_size=2", "--gradient_accumulation_steps=2"),
    ),
}
RESUMED = "resumed after half the steps, and not"
THREADS = "one CPU thread, and two"
COLUMNS = ("", "by default", "with --deterministic")


@dataclass(frozen=True)
class Difference:
    """Of two trainings. weight: the largest of any weight; loss: the largest of any step's loss,
    relative to it; previews: whether the preview images are the same."""

    weight: float
    loss: float
    previews: bool

    @property
    def none(self) -> bool:
        return self.weight == 0 and self.loss == 0 and self.previews

    def __str__(self) -> str:
        if self.none:
            return "bit for bit"
        return f"weights differ by up to {self.weight:.1e}, losses by {self.loss:.1e} of them"


class Trainings:
    """Trainings on one base and one set of pairs, each a folder."""

    def __init__(self, folder: Path, size: int, shape: UNetShape, deterministic: bool) -> None:
        self.folder = folder
        base, pairs = folder / "base.safetensors", folder / "pairs"
        if not base.is_file():
            build_nano(base, shape=shape, text_encoder=TEXT)
            write_pairs(pairs, count=6, size=size, seed=0)
        self.runs = folder / ("deterministic" if deterministic else "default")
        self.flags = [
            f"--pretrained_model_name_or_path={base}", f"--train_data={pairs / 'prompt.jsonl'}",
            f"--resolution={size}", *FLAGS, *(["--deterministic"] if deterministic else []),
        ]  # fmt: skip
        self._count = 0

    def run(self, *flags: object) -> Path:
        """The folder of a finished training. Raises RuntimeError where it fails."""
        self._count += 1
        out = self.runs / str(self._count)
        code = train([*self.flags, *map(str, flags), f"--output_dir={out}"])
        AcceleratorState._reset_state(reset_partial_state=True)
        if code:
            raise RuntimeError(f"training failed with exit code {code}; its message is above")
        return out

    def compare(self) -> dict[str, Difference]:
        first = self.run(WHOLE, f"--save_every_n_steps={STEPS // 2}")
        known: dict[tuple[str, ...], Path] = {(WHOLE,): first}
        found = {}
        for name, (one, other) in CASES.items():
            if tuple(one) not in known:
                known[tuple(one)] = self.run(*one)
            found[name] = difference(known[tuple(one)], self.run(*other))
        state = first / "state" / f"step{STEPS // 2:08d}"
        found[RESUMED] = difference(first, self.run(WHOLE, f"--resume={state}"))
        if not torch.cuda.is_available():
            found[THREADS] = self._with_other_threads()
        return found

    def _with_other_threads(self) -> Difference:
        before, runs = torch.get_num_threads(), []
        for count in (1, 2):
            torch.set_num_threads(count)
            runs.append(self.run(WHOLE))
        torch.set_num_threads(before)
        return difference(*runs)


def difference(one: Path, other: Path) -> Difference:
    first, second = (read_weights(run / "siamese.safetensors").tensors for run in (one, other))
    weight = max(float((first[key] - second[key]).abs().max()) for key in first)
    losses, others = _losses(one), _losses(other)
    shared = losses.keys() & others.keys()  # a resumed run has those of its own steps
    loss = max(abs(losses[step] - others[step]) / losses[step] for step in shared)
    pictures = [[*run.glob("sample/*.png")][-1].read_bytes() for run in (one, other)]
    return Difference(weight, loss, pictures[0] == pictures[1])


def _losses(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def compare_in_a_process(folder: Path, size: int, shape: UNetShape) -> list[dict[str, Difference]]:
    """By default, and with --deterministic; each in a new process: cuBLAS looks but once."""
    context, found = multiprocessing.get_context("spawn"), []
    for deterministic in (False, True):
        with context.Pool(1) as pool:
            found.append(pool.apply(_compare, (folder, size, shape, deterministic)))
    return found


def _compare(
    folder: Path, size: int, shape: UNetShape, deterministic: bool
) -> dict[str, Difference]:
    logging.disable(logging.INFO)
    return Trainings(folder, size, shape, deterministic).compare()


def as_result(name: str, modes: Sequence[dict[str, Difference]]) -> Result:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = [[case, *(str(mode[case]) for mode in modes)] for case in modes[0]]
    raw = {
        column: {case: asdict(found) for case, found in mode.items()}
        for column, mode in zip(COLUMNS[1:], modes, strict=True)
    }
    facts = machine(device)
    title = f"Determinism: {facts.get('gpu', 'CPU')}"
    return Result(name, title, facts, rows, raw, columns=COLUMNS)


def main(argv: list[str] | None = None) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(
        prog="python -m siamese_diffusion.benchmarks.determinism",
        description="What training repeats bit for bit on this device.",
    )
    parser.add_argument(
        "--out", type=Path, default=RELIABILITY / f"{NAME}_{device}.json", help="JSON to write"
    )
    parser.add_argument("--work", type=Path, help="for large files (a temporary folder)")
    given = parser.parse_args(argv)
    shape = SHAPE if device == "cuda" else TINY
    compare = partial(compare_in_a_process, size=64, shape=shape)
    if given.work:
        given.work.mkdir(parents=True, exist_ok=True)
        modes = compare(given.work)
    else:
        with tempfile.TemporaryDirectory() as folder:
            modes = compare(Path(folder))
    result = as_result(given.out.stem, modes)
    print(table(result))
    result.write(given.out.parent)
    if given.out.parent == RELIABILITY:
        quote_in_docs(read_results(RELIABILITY), RELIABILITY_DOCS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
