"""Reading flags: the command line over a TOML file over the defaults of TrainConfig."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..common.arguments import Parser
from ..common.processes import is_first_process
from ..common.text import shortened, shown
from .config import TrainConfig
from .errors import ConfigError
from .hosts.sd_scripts.aliases import KNOWN, NO_MEANING, kind_of, parse_aliases, translate
from .hosts.sd_scripts.flags import HOST_FLAGS, by_flag, is_off, refuse, without_effect
from .hosts.sd_scripts.locate import find_sd_scripts
from .options import GROUPS
from .sd_scripts_options import SdScriptsOptions
from .toml_files import read_toml, to_toml

log = logging.getLogger(__name__)

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
    """Read the command line and `--config_file`.

    Raises ConfigError; argparse exits with 2, and `--output_config` with 0 once it has written.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    namespace, words = parser.parse_known_args(given)
    values = vars(namespace)
    aliases, words = parse_aliases(words)
    theirs = by_flag(words)
    off = {name for name, value in theirs.items() if is_off(name, value)}
    refuse([name for name in theirs if name not in off])
    config_file = values.pop("config_file", None)
    to_file = aliases.pop("output_config", False)
    if config_file is not None and not to_file:
        in_file, theirs_in_file, aliases_in_file = read_config_file(config_file, off)
        values = {**in_file, **values}
        theirs = {**theirs_in_file, **theirs}
        aliases = {**aliases_in_file, **aliases}
    aliases = {name: value for name, value in aliases.items() if not is_off(name, value)}
    values |= translate(aliases, values)
    theirs = {name: value for name, value in theirs.items() if name not in off}
    theirs = _with_effect(theirs, aliases, values)
    if theirs:
        values["host_options"] = _host_options(parser, theirs, words, values)
    if to_file:
        write_config_file(config_file, values)
        raise SystemExit(0)
    if missing := _missing(values):
        raise ConfigError(f"{', '.join(f'--{name}' for name in missing)}: required; see --help.")
    return TrainConfig(**{**values, **launcher_precision(values.get("mixed_precision"))})


def _missing(values: Mapping[str, Any]) -> list[str]:
    """The required flags that are not given."""
    return [
        item.name
        for item in fields(TrainConfig)
        if item.default is MISSING and item.default_factory is MISSING and item.name not in values
    ]


def _with_effect(
    theirs: Mapping[str, Any], aliases: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Those of sd-scripts' flags that do something; one warning names all others."""
    idle = {name: "" for name in aliases if name in NO_MEANING}
    idle |= {name: f" (for {of})" for name, of in without_effect(theirs, values).items()}
    if idle:
        names = ", ".join(f"--{name}{of}" for name, of in sorted(idle.items()))
        log.warning("Note: left out, without a meaning here: %s.", names)
    return {name: value for name, value in theirs.items() if name not in idle}


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
    parser: Parser, theirs: Mapping[str, Any], words: Sequence[str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Flags that are sd-scripts' own, read by its own parser where it is the host."""
    if theirs.keys() - HOST_FLAGS:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    folder = find_sd_scripts(values.get("host"), values.get("sd_scripts"))
    if folder is None:
        flags = ", ".join(f"--{name}" for name in theirs)
        raise ConfigError(f"{flags}: needs sd-scripts as host; give its folder with --sd_scripts.")
    from .hosts.sd_scripts.library import parse_flags

    return parse_flags(folder, theirs)


def write_config_file(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write flags to a TOML file that `--config_file` reads, without what that may not name.

    Raises ConfigError for flags that no run can have, for no path, and for a file that is there.
    """
    # Others are given beside the file later.
    TrainConfig(**{**dict.fromkeys(_missing(values), Path()), **values})
    if path is None:
        raise ConfigError("--output_config: needs --config_file, the name of the file to write.")
    path = _with_suffix(path)
    flat = {**values, **values.get("host_options", {})}
    flat.pop("host_options", None)
    code = [name for name in CODE_FLAGS if name in flat and not _is_installed(name, flat[name])]
    if not is_first_process():
        return
    try:
        content = to_toml({name: value for name, value in flat.items() if name not in code})
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError as error:
        raise ConfigError(
            f"--output_config: {path} is there already; give another --config_file, or delete it."
        ) from error
    except ValueError as error:
        raise ConfigError(f"--output_config: {error}.") from error
    log.info("Flags written to %s; give it with --config_file.", path)
    if code:
        names = ", ".join(f"--{name}" for name in code)
        log.warning("Note: not in it: %s; a file may not name code. Give that beside it.", names)


def read_config_file(
    path: Path, off: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Flags from a TOML file: ours, those of sd-scripts' host, and its names for ours.

    Names are as on the command line, which has switched those of `off` off; tables are only
    headings. Raises ConfigError for a missing or bad file, listing every unknown name and wrong
    value.
    """
    try:
        path = _with_suffix(path)
        content = read_toml(path)
    except ValueError as error:
        raise ConfigError(f"--config_file {path}: {error}.") from error
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= value if isinstance(value, dict) else {name: value}
    flat = {n: value for n, value in flat.items() if n not in off and not is_off(n, value)}
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


def _with_suffix(path: Path) -> Path:
    """As in sd-scripts a file's name may be given without .toml."""
    return path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")


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
