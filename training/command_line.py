"""Reading flags: the command line over a TOML file over the defaults of TrainConfig."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..common.arguments import Parser
from ..common.text import shortened, shown
from .config import TrainConfig
from .errors import ConfigError
from .hosts.sd_scripts.aliases import KNOWN, kind_of, parse_aliases, translate
from .hosts.sd_scripts.flags import HOST_FLAGS, is_off, refuse
from .hosts.sd_scripts.locate import find_sd_scripts
from .options import GROUPS
from .sd_scripts_options import SdScriptsOptions
from .toml_files import read_toml

PROBLEMS_SHOWN = 20
# Flags that say what is imported: a configuration may come from a stranger, beside other files.
CODE_FLAGS = ("optimizer_type", "lr_scheduler_type", "sd_scripts")

EPILOG = """\
example:
  python training/train_siamese.py --pretrained_model_name_or_path v1-5-pruned.safetensors \\
      --train_data data/prompt.jsonl --output_dir runs/polyps
Defaults are the published code's or sd-scripts' where the text says so, and our own elsewhere.
Give the same command again to resume a run that was stopped. With sd-scripts as host flags of its
own work too: see docs/sd-scripts.md.
"""


def parse_args(arguments: Sequence[str] | None = None) -> TrainConfig:
    """Read the command line and `--config_file`. Raises ConfigError; argparse exits with 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    refuse([word.partition("=")[0][2:] for word in given if word.startswith("--")])
    parser = build_parser()
    namespace, others = parser.parse_known_args(given)
    values = vars(namespace)
    aliases, others = parse_aliases(others)
    from_file: dict[str, Any] = {}
    config_file = values.pop("config_file", None)
    if config_file is not None:
        in_file, from_file, aliases_in_file = read_config_file(config_file)
        values = {**in_file, **values}
        aliases = {**aliases_in_file, **aliases}
    values |= translate(aliases, values)
    values |= launcher_precision(values.get("mixed_precision"))
    if others or from_file:
        values["host_options"] = _host_options(parser, others, from_file, values)
    missing = [
        f"--{item.name}"
        for item in fields(TrainConfig)
        if item.default is MISSING and item.default_factory is MISSING and item.name not in values
    ]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: required; see --help.")
    return TrainConfig(**values)


def launcher_precision(given: str | None) -> dict[str, str]:
    """`--mixed_precision` as `accelerate launch` was given it; `given`: our own flag's, or None.

    Raises ConfigError where the two differ, or for a precision that is not one of ours.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if launched in ("no", given):  # "no" is what it says where nobody has chosen
        return {}
    known: tuple[str, ...] = TrainConfig.__dataclass_fields__["mixed_precision"].metadata["choices"]
    if given is None and launched in known:
        return {"mixed_precision": launched}
    own = f"--mixed_precision here is {given}" if given else f"here it is one of {', '.join(known)}"
    raise ConfigError(
        f"accelerate launch was given --mixed_precision {launched}, but {own}. Give both the same, "
        "or leave it out of the launcher's command or of its configuration (accelerate config)."
    )


def _host_options(
    parser: Parser,
    others: list[str],
    from_file: dict[str, Any],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    """Flags that are sd-scripts' own, read by its own parser where it is the host."""
    names = [word.partition("=")[0] for word in others if word.startswith("--")]
    foreign = [name for name in names if name[2:] not in HOST_FLAGS]
    if foreign or not (names or from_file):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    folder = find_sd_scripts(values.get("host"), values.get("sd_scripts"))
    if folder is None:
        flags = ", ".join(dict.fromkeys([*names, *(f"--{name}" for name in from_file)]))
        raise ConfigError(f"{flags}: needs sd-scripts as host; give its folder with --sd_scripts.")
    from .hosts.sd_scripts.library import parse_flags

    return parse_flags(folder, others, from_file)


def read_config_file(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Flags from a TOML file: ours, those of sd-scripts' host, and its names for ours.

    Names are as on the command line; tables are only headings. As in sd-scripts the file's name
    may be given without .toml. Raises ConfigError for a missing or bad file, listing every unknown
    name and wrong value.
    """
    try:
        path = path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")
        content = read_toml(path)
    except ValueError as error:
        raise ConfigError(f"--config_file {path}: {error}.") from error
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= value if isinstance(value, dict) else {name: value}
    flat = {name: value for name, value in flat.items() if not is_off(name, value)}
    refuse([*flat], f"--config_file {path}: ")
    hints = get_type_hints(TrainConfig)
    values, theirs, aliases, problems = {}, {}, {}, []
    for name, value in flat.items():
        if name in CODE_FLAGS and not _is_installed(name, value):
            problems.append(
                f"{name} = {shown(value)}: names code to run, which a file may not unless it is of "
                "an installed package; give it on the command line"
            )
        elif name in HOST_FLAGS:
            theirs[name] = value
        elif name in KNOWN:
            if isinstance(value, kind_of(name)):
                aliases[name] = value
            else:
                problems.append(f"{name} = {shown(value)}: expected {_type_name(kind_of(name))}")
        elif name not in hints or name == "host_options":
            problems.append(f"{shortened(name)} is not a flag")
        else:
            try:
                values[name] = _convert(value, hints[name])
            except (TypeError, ValueError, OverflowError):
                problems.append(f"{name} = {shown(value)}: expected {_type_name(hints[name])}")
    if problems:
        more = "; ..." if len(problems) > PROBLEMS_SHOWN else ""
        raise ConfigError(
            f"--config_file {path}: {'; '.join(problems[:PROBLEMS_SHOWN])}{more}. Correct or "
            "remove."
        )
    return values, theirs, aliases


def _is_installed(name: str, value: Any) -> bool:
    """Whether what a file names is no code at all, or that of an installed package."""
    package, dot, _ = str(value).partition(".")
    return name != "sd_scripts" and (not dot or package in packages_distributions())


def _convert(value: Any, hint: Any) -> Any:
    kind = _value_type(hint)
    if kind is bool or isinstance(value, bool):
        if not (kind is bool and isinstance(value, bool)):
            raise TypeError(value)
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise TypeError(value)
        return tuple(kind(item) for item in value)
    if kind is int and not isinstance(value, int):
        raise TypeError(value)
    return kind(value)


def build_parser() -> Parser:
    """One flag for each field of TrainConfig; flags that are not given are left out."""
    parser = Parser(
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
    added = {item.name for item in fields(SdScriptsOptions)}
    flags = [item for item in fields(TrainConfig) if "group" in item.metadata]
    for item in sorted(flags, key=lambda f: (GROUPS.index(f.metadata["group"]), f.name in added)):
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
    names = {int: "integer", float: "number", str: "text", bool: "true or false"}
    name = names.get(_value_type(hint), "path")
    return f"list of {name}s" if get_origin(hint) is tuple else name
