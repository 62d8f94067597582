"""The flags of evaluate.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.arguments import Parser, whole
from ..common.folder_lock import FolderLock
from ..common.text import printable, shown
from .band import Band
from .errors import OutputError
from .settings import MULTIPLE, QUICK, SEGMENTERS, Settings

EPILOG = """\
example:
  siamese-evaluate --real_train train/prompt.jsonl --real_test test/prompt.jsonl \\
      --synthetic siamese=out/prompt.jsonl --out evaluation_of_siamese --quick
A prompt.jsonl holds {"source": mask, "target": image, "prompt": caption} a line, paths relative to
the file; add "group" (patient, video, field of view) to every line where several images share one.
Give the same command with --resume to go on after a stop. docs/evaluation.md explains the figures.
"""


MOST_STEPS = 10_000_000
MOST_IN_BATCH = 4096
MOST_TRAININGS = 1000  # of an arm, and at a time
LARGEST = 4096  # pixels
LONGEST_NAME = 100  # bytes of a set's name, which becomes a folder's
LEAST_RATIO, MOST_RATIO = 0.001, 1000

RUNS = "runs"  # the folder of finished trainings in --out
LOCK = ".evaluation.lock"


@dataclass(frozen=True)
class Request:
    """What the command line asks for. changes: settings that were given as flags."""

    real_train: Path
    real_test: Path
    synthetic: dict[str, Path]
    out: Path
    quick: bool
    resume: bool
    features: Path | None
    features_model: str | None
    scores: Path | None
    anonymous: bool
    keep: Band | None
    resolution: int | None
    jobs: int
    changes: dict[str, Any]

    @property
    def files(self) -> dict[str, Path]:
        """Every prompt.jsonl by the name of its set."""
        return {"real_train": self.real_train, "real_test": self.real_test, **self.synthetic}

    @property
    def lock(self) -> FolderLock:
        """Keeps other evaluations out of the output folder."""
        return FolderLock(self.out, LOCK, "--out", "evaluation", OutputError)

    def check_output(self) -> None:
        """Raise OutputError where results cannot or should not be written."""
        if printable(str(self.out)) != str(self.out):  # weights are not written there
            raise OutputError(f"--out {self.out}: is not UTF-8 text. Give another folder.")
        if self.out.exists() and not self.out.is_dir():
            raise OutputError(f"--out {self.out}: is a file; expected a folder.")
        self.lock.check()
        if (self.out / RUNS).is_dir() and not self.resume:
            raise OutputError(
                f"--out {self.out}: holds an earlier evaluation; give --resume to use its finished "
                "trainings, or another folder."
            )
        if self.scores and not self.scores.absolute().parent.is_dir():
            raise OutputError(f"--scores {self.scores}: its folder does not exist.")
        if self.scores and self.scores.is_dir():
            raise OutputError(f"--scores {self.scores}: is a folder; expected a file to write.")

    def settings(self, resolution: int) -> Settings:
        import torch  # takes seconds: not for --help, nor to refuse a wrong flag

        device = "cuda" if torch.cuda.is_available() else "cpu"
        given = {"resolution": resolution, "device": device, **self.changes}
        return Settings(**{**(QUICK if self.quick else {}), **given})


def parse_args(arguments: Sequence[str] | None = None) -> Request:
    """Read the command line; argparse prints what is wrong and exits with 2."""
    parser = build_parser()
    values = vars(parser.parse_args(arguments))
    pairs = values.pop("synthetic")
    synthetic = dict(pairs)
    if len(synthetic) < len(pairs):
        parser.error("--synthetic: two sets have the same name")
    if values["features_model"] and not values["features"]:
        parser.error("--features_model: needs the weights, with --features FILE")
    taken = set(Request.__dataclass_fields__) - {"changes", "synthetic"}
    changes = {k: v for k, v in values.items() if k not in taken and v is not None}
    return Request(**{k: values[k] for k in taken}, synthetic=synthetic, changes=changes)


def build_parser() -> Parser:
    parser = Parser(
        prog="siamese-evaluate",
        description="Measure on real pairs whether synthetic pairs help, and how good they are.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_pairs(parser.add_argument_group("pairs"))
    _add_run(parser.add_argument_group("run"))
    _add_training(parser.add_argument_group("trainings"))
    _add_features(parser.add_argument_group("features"))
    _add_filter(parser.add_argument_group("filter"))
    return parser


def _add_pairs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--real_train",
        type=Path,
        required=True,
        metavar="JSONL",
        help="real pairs that the generator was trained on",
    )
    group.add_argument(
        "--real_test",
        type=Path,
        required=True,
        metavar="JSONL",
        help="real pairs that neither the generator nor a segmenter has seen",
    )
    group.add_argument(
        "--synthetic",
        type=_named_file,
        action="append",
        required=True,
        metavar="NAME=JSONL",
        help="a synthetic set; give the flag once for each",
    )
    group.add_argument(
        "--resolution",
        type=_resolution,
        metavar="PIXELS",
        help="side to which all pairs are stretched (the largest side in real_train, at most 256)",
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out", type=Path, required=True, help="folder for report.html, report.json"
    )
    group.add_argument(
        "--quick", action="store_true", help="smoke run: all figures in minutes, none meaningful"
    )
    group.add_argument("--resume", action="store_true", help="use the finished trainings in --out")
    group.add_argument(
        "--anonymous",
        action="store_true",
        help="leave paths, names, groups and real images out of the report",
    )
    group.add_argument("--device", type=_device, help="cpu or cuda (cuda where there is one)")
    group.add_argument(
        "--jobs",
        type=whole(1, MOST_TRAININGS),
        default=1,
        help="trainings at a time (1); on a GPU several, since one leaves most of it idle",
    )
    group.add_argument("--seed", type=whole(0, 2**32 - 1), help="decides every random choice (0)")


def _add_training(group: argparse._ArgumentGroup) -> None:
    known = "; ".join(f"{name}: {text}" for name, text in SEGMENTERS.items())
    group.add_argument("--seeds", type=whole(1, MOST_TRAININGS), help="trainings of each arm (3)")
    group.add_argument(
        "--segmenters",
        type=_segmenters,
        help=f"what is trained, one or more of: {known} (unet,fpn)",
    )
    group.add_argument(
        "--ratios", type=_ratios, help="synthetic pairs for each real one (0.5,1,2,5)"
    )
    group.add_argument(
        "--steps", type=whole(1, MOST_STEPS), help="optimizer steps of every training (2000)"
    )
    group.add_argument(
        "--batch_size", type=whole(1, MOST_IN_BATCH), help="pairs in a training step (16)"
    )


def _add_features(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--features",
        type=Path,
        metavar="FILE",
        help="network for fidelity, diversity and memorisation: TorchScript, which is a "
        "program (only from people you trust), or weights of timm; default: a segmenter trained on "
        "half of real_train",
    )
    group.add_argument(
        "--features_model", metavar="NAME", help="timm's name of the architecture of --features"
    )


def _add_filter(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--scores", type=Path, metavar="FILE", help="write a score for each synthetic pair (.jsonl)"
    )
    group.add_argument(
        "--keep",
        type=band,
        metavar="LOW,HIGH",
        help="keep pairs whose agreement (Dice) lies between: writes prompt.jsonl, dropped.jsonl "
        "to OUT/filtered/NAME/, and adds arms with the filtered sets",
    )


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    plain = all(part.isalnum() or part in "-_." for part in name)
    short = len(name.encode("utf-8", "surrogateescape")) <= LONGEST_NAME
    if not (name and equals and path) or not (plain and short) or name.startswith(("real", ".")):
        raise argparse.ArgumentTypeError(
            f"{shown(text)}: expected NAME=prompt.jsonl, a name of at most {LONGEST_NAME} letters, "
            "digits, - and _ that does not begin with real"
        )
    return name, Path(path)


def _resolution(text: str) -> int:
    side = int(text) if text.isdecimal() and len(text) <= len(str(LARGEST)) else 0
    if not MULTIPLE <= side <= LARGEST or side % MULTIPLE:
        raise argparse.ArgumentTypeError(
            f"{shown(text)}: expected a multiple of {MULTIPLE} up to {LARGEST}"
        )
    return side


def _segmenters(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in SEGMENTERS]
    if unknown or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{shown(text)}: expected some of {', '.join(SEGMENTERS)}")
    return names


def _ratios(text: str) -> tuple[float, ...]:
    try:
        ratios = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        ratios = ()
    if not ratios or not all(LEAST_RATIO <= ratio <= MOST_RATIO for ratio in ratios):
        raise argparse.ArgumentTypeError(
            f"{shown(text)}: expected numbers from {LEAST_RATIO} to {MOST_RATIO}, such as 0.5,1,2"
        )
    return ratios


def band(text: str) -> Band:
    """`LOW,HIGH` as a flag gives it. Raises ArgumentTypeError."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise argparse.ArgumentTypeError(
            f"{shown(text)}: expected LOW,HIGH in 0..1, such as 0.5,0.95"
        )
    return Band(low, high)


def _device(text: str) -> str:
    import torch

    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("cuda: PyTorch finds no CUDA GPU here")
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{shown(text)}: expected cpu or cuda")
    return text
