"""Reading flags: the command line over a TOML file over the defaults of TrainConfig."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from .errors import ConfigError
from .options import TrainConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EPILOG = """\
example:
  python training/train_siamese.py --pretrained_model_name_or_path v1-5-pruned.safetensors \\
      --train_data data/prompt.jsonl --output_dir runs/polyps
Give the same command again to resume a run that was stopped.
"""

# Flags of sd-scripts that people have in their commands, and that could have no effect here.
REFUSED = {
    "--sdpa": "PyTorch's scaled dot product attention is always used; leave the flag out",
    "--mem_eff_attn": "use --xformers, or neither: PyTorch's own attention is as lean",
    "--cache_latents": "latents are always cached; leave the flag out",
    "--cache_text_encoder_outputs": "text embeddings are always cached; leave the flag out",
    "--network_module": "this trains a ControlNet and the UNet's decoder, not a LoRA",
    "--network_dim": "this trains a ControlNet and the UNet's decoder, not a LoRA",
    "--masked_loss": "the mask is the condition here, not a weight of the loss",
    "--train_text_encoder": "the text encoder is not trained",
}


def parse_args(arguments: Sequence[str] | None = None) -> TrainConfig:
    """Read the command line and `--config_file`. Raises ConfigError; argparse exits with 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for argument in given:
        name = argument.partition("=")[0]
        if name in REFUSED:
            raise ConfigError(f"{name}: {REFUSED[name]}.")
    values = vars(build_parser().parse_args(given))
    config_file = values.pop("config_file", None)
    if config_file is not None:
        values = {**read_config_file(config_file), **values}
    missing = [
        f"--{item.name}"
        for item in fields(TrainConfig)
        if item.default is MISSING and item.name not in values
    ]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: required; see --help.")
    return TrainConfig(**values)


def read_config_file(path: Path) -> dict[str, Any]:
    """Flags from a TOML file: names as on the command line; tables are only headings.

    Raises ConfigError for a missing or bad file, listing every unknown name and wrong value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config_file {path}: {error}") from error
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= value if isinstance(value, dict) else {name: value}
    hints = get_type_hints(TrainConfig)
    values, problems = {}, []
    for name, value in flat.items():
        if name not in hints:
            problems.append(f"{name} is not a flag")
            continue
        try:
            values[name] = _convert(value, hints[name])
        except (TypeError, ValueError):
            problems.append(f"{name} = {value!r}: expected {_type_name(hints[name])}")
    if problems:
        raise ConfigError(f"--config_file {path}: {'; '.join(problems)}.")
    return values


def _convert(value: Any, hint: Any) -> Any:
    kind = _value_type(hint)
    if kind is bool or isinstance(value, bool):
        if not (kind is bool and isinstance(value, bool)):
            raise TypeError(value)
        return value
    if get_origin(hint) is tuple:
        return tuple(kind(item) for item in value)
    if kind is int and not isinstance(value, int):
        raise TypeError(value)
    return kind(value)


def build_parser() -> argparse.ArgumentParser:
    """One flag for each field of TrainConfig; flags that are not given are left out."""
    parser = argparse.ArgumentParser(
        prog="train_siamese.py",
        description="Fine-tune Stable Diffusion into a Siamese-Diffusion model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config_file",
        type=Path,
        metavar="TOML",
        help="flags in a TOML file; the command line wins",
    )
    hints = get_type_hints(TrainConfig)
    groups: dict[str, Any] = {}
    for item in fields(TrainConfig):
        name = item.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        groups[name].add_argument(f"--{item.name}", **_argument(item, hints[item.name]))
    return parser


def _argument(item: Field, hint: Any) -> dict[str, Any]:
    """argparse's keywords for one field."""
    text = item.metadata["help"].replace("%", "%%")
    if hint is bool:
        return {"action": "store_true", "help": text}
    if item.default is MISSING:
        text = f"{text} (required)"
    elif item.default not in (None, ()):
        text = f"{text}; default: {item.default}"
    arguments: dict[str, Any] = {"type": _value_type(hint), "help": text}
    if get_origin(hint) is tuple:
        arguments["nargs"] = "*"
    if "choices" in item.metadata:
        arguments["choices"] = item.metadata["choices"]
    else:
        arguments["metavar"] = _type_name(hint).upper()
    return arguments


def _value_type(hint: Any) -> Any:
    """The type of `X | None` and of `tuple[X, ...]` is X."""
    kinds = [kind for kind in get_args(hint) if kind not in (type(None), Ellipsis)]
    return kinds[0] if kinds else hint


def _type_name(hint: Any) -> str:
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(
        _value_type(hint), "path"
    )
