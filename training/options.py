"""The command line: one dataclass whose fields are the flags, named as in sd-scripts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..models.recipe import RECIPE_CHOICES, RECIPES, Recipe
from .errors import ConfigError

EPILOG = """\
example:
  python training/train_siamese.py --pretrained_model_name_or_path v1-5-pruned.safetensors \\
      --train_data data/prompt.jsonl --output_dir runs/polyps
Give the same command again to resume a run that was stopped.
"""


def option(group: str, text: str, default: Any = MISSING, **extra: Any) -> Any:
    """A flag: its help group, help text and default."""
    metadata = {"group": group, "help": text, **extra}
    return (
        field(metadata=metadata)
        if default is MISSING
        else field(default=default, metadata=metadata)
    )


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run; written to the run folder as config.json."""

    pretrained_model_name_or_path: Path = option(
        "model", "base model: a single-file Stable Diffusion 1.x or 2.x checkpoint"
    )
    train_data: Path = option(
        "data",
        'a prompt.jsonl with {"source": mask, "target": image, "prompt": caption} a line, paths '
        "relative to the file",
    )
    output_dir: Path = option("output", "folder for weights, previews, metrics and states")

    v_parameterization: bool = option(
        "model", "the base model predicts v (Stable Diffusion 2.1 at 768 px)", False
    )
    tokenizer_cache_dir: Path | None = option(
        "model",
        "folder with CLIP's vocab.json and merges.txt; default: the ComfyUI this pack is in, then "
        "the Hugging Face cache",
        None,
    )

    resolution: str = option(
        "data",
        "training size in pixels, SIZE or WIDTH,HEIGHT, multiples of 8 (published: 384)",
        "384",
    )
    caption_dropout_rate: float = option(
        "data", "share of captions replaced by the empty one (published: 0.05)", 0.05
    )

    recipe: str = option(
        "recipe",
        "variant of the method (published: what the published code does)",
        "published",
        choices=tuple(RECIPES),
    )
    image_hint: str | None = option(
        "recipe",
        "DHI input of the image branch; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["image_hint"],
    )
    joint_control: str | None = option(
        "recipe",
        "how the two branches' controls are joined; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["joint_control"],
    )
    image_updates: str | None = option(
        "recipe",
        "what the image branch's loss trains; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["image_updates"],
    )
    consistency: str | None = option(
        "recipe",
        "weighting of the noise consistency loss; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["consistency"],
    )
    branches: str | None = option(
        "recipe",
        "mask: train the mask branch alone; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["branches"],
    )

    max_train_steps: int = option("training", "optimizer steps (published: 3000)", 3000)
    train_batch_size: int = option(
        "training", "pairs per process and forward pass (published: 6 on each of 8 GPUs)", 6
    )
    learning_rate: float = option("training", "of AdamW (published: 1e-5)", 1e-5)
    seed: int = option("training", "of order, noise and previews (published: 42)", 42)

    output_name: str = option("output", "name of the weight files", "siamese")
    save_every_n_steps: int = option(
        "output", "steps between checkpoints (weights and resumable state); 0: none", 500
    )
    keep_last_n: int = option("output", "checkpoints kept; older ones are deleted", 2)
    resume: Path | None = option(
        "output",
        "state folder to resume from; default: the newest in output_dir, if the same command has "
        "been stopped",
        None,
    )
    sample_every_n_steps: int = option(
        "output", "steps between preview grids; 0: only at the end", 500
    )
    sample_count: int = option("output", "pairs shown in a preview grid", 4)
    sample_steps: int = option("output", "DDIM steps of a preview (published: 50)", 50)
    sample_cfg: float = option("output", "CFG of a preview (published: 9)", 9.0)

    def __post_init__(self) -> None:
        positive = ("max_train_steps", "train_batch_size", "sample_steps", "learning_rate")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be above 0.")
        if not 0 <= self.caption_dropout_rate <= 1:
            raise ConfigError(
                f"--caption_dropout_rate is {self.caption_dropout_rate}; it must be in 0..1."
            )
        self.size  # noqa: B018 - raises for a bad --resolution

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        try:
            numbers = [int(part) for part in self.resolution.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or any(n <= 0 or n % 8 for n in numbers):
            raise ConfigError(
                f"--resolution is {self.resolution!r}; expected SIZE or WIDTH,HEIGHT in pixels, "
                "multiples of 8, such as 384 or 512,384."
            )
        return numbers[0], numbers[-1]

    def resolved_recipe(self) -> Recipe:
        """The named recipe, with the fields that have a flag of their own replaced."""
        changed = {n: getattr(self, n) for n in RECIPE_CHOICES if getattr(self, n) is not None}
        return replace(RECIPES[self.recipe], **changed)

    def to_json(self) -> str:
        values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        return json.dumps(values, indent=2)


def parse_args(arguments: Sequence[str] | None = None) -> TrainConfig:
    """Read the command line. Raises ConfigError for bad values; argparse exits with code 2."""
    values = vars(build_parser().parse_args(arguments))
    return TrainConfig(**values)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train_siamese.py",
        description="Fine-tune Stable Diffusion into a Siamese-Diffusion model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    hints = get_type_hints(TrainConfig)
    groups: dict[str, Any] = {}
    for item in fields(TrainConfig):
        name = item.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        groups[name].add_argument(f"--{item.name}", **_argument(item, hints[item.name]))
    return parser


def _argument(item: Any, hint: Any) -> dict[str, Any]:
    """argparse's keywords for one field."""
    text = item.metadata["help"]
    if item.default is MISSING:
        return {"type": _value_type(hint), "required": True, "help": text}
    if hint is bool:
        return {"action": "store_true", "help": text}
    if item.default is not None:
        text = f"{text}; default: {item.default}"
    arguments = {"type": _value_type(hint), "default": item.default, "help": text}
    if "choices" in item.metadata:
        arguments["choices"] = item.metadata["choices"]
    else:
        arguments["metavar"] = _value_type(hint).__name__.upper()
    return arguments


def _value_type(hint: Any) -> Any:
    """The type of `X | None` is X."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if kinds else hint
