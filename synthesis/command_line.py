"""The flags of synthesize.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.arguments import Parser, number, whole
from ..common.backgrounds import EDGE, WIDEST_EDGE
from ..common.pictures import Size
from ..common.pixel_budget import LARGEST_SAMPLED
from ..common.text import printable, shown
from ..models.contrast import LEAST
from .settings import SAMPLERS, SCHEDULES, Settings, Shard

EPILOG = """\
examples:
  siamese-synthesize --bundle siamese.safetensors --masks masks/ --prompt "a polyp" \\
      --images_per_mask 4 --batch_size 8 --output_dir out
  siamese-synthesize --checkpoint merged.safetensors --masks data/prompt.jsonl --shard 3/64 \\
      --output_dir out
Defaults are the published settings. Give the same command again to go on after a stop; with --check
to list what is missing or damaged. docs/scale.md has command lines for clusters.
"""
MOST_MASKS = 10**9  # and no more pairs than run.MOST_PAIRS
MOST_IMAGES = 10**6  # of a mask
MOST_LESIONS = 20  # as in the nodes
MOST_IN_BATCH = 256  # masks of twice as many images are in memory
MOST_PROCESSES = 1024
MOST_SHARDS = 10**6
MOST_STEPS = 999  # DDIM's published schedule has none for 1000


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    pretrained_model_name_or_path: Path | None
    bundle: Path | None
    checkpoint: Path | None
    v_parameterization: bool
    tokenizer_cache_dir: Path | None
    masks: Path | None
    prompt: str | None
    random_masks: int | None
    lesions: int
    smallest: float
    largest: float
    augment_masks: int | None
    no_flip: bool
    rotation: float
    scale: float
    elastic: float
    backgrounds: Path | None
    edge: int
    images_per_mask: int
    seed: int
    steps: int
    cfg: float
    sampler: str
    schedule: str
    resolution: Size | None
    output_dir: Path
    tar: bool
    batch_size: int
    mixed_precision: str
    least_contrast: float
    torch_compile: bool
    processes: int | None
    ray: str | None
    shard: Shard | None
    check: bool
    anonymous: bool

    def settings(self, resolution: Size | None) -> Settings:
        return Settings(
            self.seed,
            self.steps,
            self.cfg,
            self.sampler,
            self.schedule,
            resolution,
            self.mixed_precision,  # type: ignore[arg-type]  # argparse has checked it
            self.least_contrast,
        )


def parse_args(arguments: Sequence[str] | None = None) -> Request:
    """Read the command line; argparse prints what is wrong and exits with 2."""
    parser = build_parser()
    request = Request(**vars(parser.parse_args(arguments)))
    if (request.masks is None) == (request.random_masks is None):
        parser.error("give either --masks or --random_masks")
    if request.augment_masks and request.masks is None:
        parser.error("--augment_masks: needs --masks, of which it makes changed copies")
    if request.smallest > request.largest:
        parser.error("--smallest: is larger than --largest")
    if request.backgrounds and request.least_contrast < 1:
        parser.error("--least_contrast: with --backgrounds, which stay as they are, give none")
    if sum(value is not None for value in (request.ray, request.shard, request.processes)) > 1:
        parser.error("give one of --processes, --shard and --ray")
    listed = request.masks is not None and request.masks.is_file()
    if listed and request.prompt is not None:
        parser.error("--prompt: --masks is a file, whose captions count")
    return request


def build_parser() -> Parser:
    parser = Parser(
        prog="siamese-synthesize",
        description="Make image-mask pairs from masks and Siamese-Diffusion weights.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_weights(parser.add_argument_group("weights"))
    _add_masks(parser.add_argument_group("masks"))
    _add_painting(parser.add_argument_group("painting"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_run(parser.add_argument_group("run"))
    return parser


def _add_weights(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--bundle", type=Path, help="what train_siamese.py wrote")
    group.add_argument(
        "--pretrained_model_name_or_path",
        type=Path,
        metavar="BASE",
        help="the checkpoint that the bundle was trained on; default: looked for beside the "
        "bundle, and where the training's config.json says, by the hash in its metadata",
    )
    group.add_argument("--checkpoint", type=Path, help="instead of both: a merged checkpoint")
    group.add_argument(
        "--v_parameterization", action="store_true", help="as in training; metadata win"
    )
    group.add_argument("--tokenizer_cache_dir", type=Path, help="as in training")


def _add_masks(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--masks", type=Path, help="a folder, or a prompt.jsonl, whose captions then count"
    )
    group.add_argument("--prompt", type=_text, help="caption of every image (empty)")
    group.add_argument(
        "--random_masks", type=whole(1, MOST_MASKS), metavar="N",
        help="instead: N masks of random shapes",
    )  # fmt: skip
    group.add_argument(
        "--lesions", type=whole(1, MOST_LESIONS), default=1, help="shapes in a random mask (1)"
    )
    percent = number(0.1, 90)
    area = "area of the %s shape of a random mask, in percent of the image (%g)"
    group.add_argument("--smallest", type=percent, default=3.0, help=area % ("smallest", 3))
    group.add_argument("--largest", type=percent, default=15.0, help=area % ("largest", 15))
    group.add_argument(
        "--augment_masks", type=whole(1, MOST_MASKS), metavar="N",
        help="instead of each mask, N changed copies",
    )  # fmt: skip
    group.add_argument("--no_flip", action="store_true", help="do not flip half of the copies")
    group.add_argument(
        "--rotation", type=number(0, 180), default=20.0, help="of copies, degrees (20)"
    )
    group.add_argument(
        "--scale", type=number(0, 0.9), default=0.2, help="of copies: 0.8 to 1.2 (0.2)"
    )
    group.add_argument(
        "--elastic", type=number(0, 1), default=0.5, help="strength of bending (0.5)"
    )


def _add_painting(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backgrounds",
        type=Path,
        metavar="FOLDER",
        help="of images without a lesion: lesions are painted into these, and each pair has the "
        "size of its background",
    )
    group.add_argument(
        "--edge",
        type=whole(0, WIDEST_EDGE),
        default=EDGE,
        metavar="PIXELS",
        help=f"around a lesion that blend into the background; beyond them it stays ({EDGE})",
    )


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--images_per_mask", type=whole(1, MOST_IMAGES), default=1, metavar="N", help="1"
    )
    group.add_argument(
        "--resolution",
        type=_size,
        help="of images, SIZE or WIDTH,HEIGHT in pixels; default: each mask's own; random masks: "
        "that of the training; with --backgrounds, that at which lesions are sampled",
    )
    group.add_argument("--steps", type=whole(1, MOST_STEPS), default=50, help="50")
    group.add_argument(
        "--cfg", type=number(0, 100), default=9.0, help="guidance (9); 1: half the time"
    )
    group.add_argument(
        "--sampler", choices=SAMPLERS, default=SAMPLERS[0], metavar="NAME",
        help=f"{', '.join(SAMPLERS)}; the first is the default, the others are those of diffusers",
    )  # fmt: skip
    group.add_argument(
        "--schedule", choices=[*SCHEDULES], default="default",
        help="noise levels of a sampler of diffusers that has these",
    )  # fmt: skip
    group.add_argument("--seed", type=whole(0, 2**64 - 1), default=0, help="0")
    group.add_argument(
        "--least_contrast", type=number(LEAST, 1), default=1.0, metavar="SHARE",
        help="each image keeps a random share of its contrast, from this on (1: all of it); "
        "for labels too few to show dim lesions (docs/scale.md)",
    )  # fmt: skip


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output_dir", type=Path, required=True, help="for images/, masks/ and prompt.jsonl"
    )
    group.add_argument("--tar", action="store_true", help="WebDataset shards of 1000 pairs instead")
    group.add_argument(
        "--batch_size", type=whole(1, MOST_IN_BATCH), default=1, help="images at once (1)"
    )
    group.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="no")
    group.add_argument("--torch_compile", action="store_true", help="compile the networks")
    group.add_argument(
        "--processes", type=whole(1, MOST_PROCESSES), metavar="N",
        help="of this machine; default: one a GPU",
    )  # fmt: skip
    group.add_argument(
        "--shard", type=_shard, metavar="I/N", help="only part I, from 0, of N: for job arrays"
    )
    group.add_argument(
        "--ray", metavar="auto|local|ADDRESS", help="on the Ray cluster that this machine is in, "
        "one of this machine alone, or the one at an address",
    )  # fmt: skip
    group.add_argument(
        "--check", action="store_true", help="only list which pairs are missing or damaged"
    )
    group.add_argument(
        "--anonymous",
        action="store_true",
        help="number the pairs, and leave captions, names and paths out of all that is written "
        "(docs/reliability.md)",
    )


def _text(text: str) -> str:
    if printable(text) != text:
        raise argparse.ArgumentTypeError(f"{shown(text)}: is not UTF-8 text")
    return text


def _size(text: str) -> Size:
    parts = text.split(",")
    sides = [int(part) for part in parts if part.isdecimal() and len(part) <= 4]
    good = len(sides) == len(parts) <= 2 and all(
        8 <= side <= LARGEST_SAMPLED and side % 8 == 0 for side in sides
    )
    if not good:
        raise argparse.ArgumentTypeError(
            f"{shown(text)}: expected SIZE or WIDTH,HEIGHT in pixels, multiples of 8 up to "
            f"{LARGEST_SAMPLED}"
        )
    return sides[0], sides[-1]


def _shard(text: str) -> Shard:
    part, _, parts = text.partition("/")
    try:
        count = whole(1, MOST_SHARDS)(parts)
        return Shard(whole(0, count - 1)(part), count)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{shown(text)}: expected I/N, such as 0/64 to 63/64 for 64 parts, at most "
            f"{MOST_SHARDS}"
        ) from None
