"""--sample_prompts: sd-scripts' files of prompts, each with the mask that it is sampled from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.pictures import mask_reader
from ...common.text import printable, shortened, shown
from ...common.text_files import parse_json, read_text
from ..config import TrainConfig
from ..errors import ConfigError
from ..options import check_option
from ..toml_files import read_toml

# The letters of a line's options -> the keys that a .toml or .json has for them, and their types.
OPTIONS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "n": ("negative_prompt", str),
    "d": ("seed", int),
    "s": ("sample_steps", int),
    "l": ("scale", float),
    "cn": ("controlnet_image", str),
}


MOST_PROMPTS = 1024  # as many as a preview shows of pairs
LONGEST_PATH = 1000  # of it in a message


@dataclass(frozen=True)
class SamplePrompt:
    """None: as --seed, --sample_steps and --sample_cfg say. mask: a file's path."""

    prompt: str
    mask: Path
    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None


def check_sample_prompts(path: Path, mask_mode: str) -> None:
    """Raise ConfigError for prompts that cannot be read, or a mask that is damaged."""
    read = mask_reader(mask_mode)
    for number, prompt in enumerate(read_sample_prompts(path), start=1):
        try:
            read(prompt.mask)
        except ValueError as error:
            raise ConfigError(f"--sample_prompts {path}, prompt {number}: {error}.") from error


def read_sample_prompts(path: Path) -> list[SamplePrompt]:
    """Prompts of a .txt with a line each, a .toml or a .json.

    Raises ConfigError naming the prompt that is wrong.
    """
    try:
        entries = _entries(path)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        said = shortened(getattr(error, "strerror", None) or str(error))
        raise ConfigError(
            f"--sample_prompts {path}: cannot be read ({said}). Expected a .txt with a prompt a "
            "line, or sd-scripts' .toml or .json of prompts."
        ) from error
    if len(entries) > MOST_PROMPTS:
        raise ConfigError(
            f"--sample_prompts {path}: {len(entries)} prompts; at most {MOST_PROMPTS} are sampled. "
            "Give fewer."
        )
    prompts = [_prompt(path, number, entry) for number, entry in enumerate(entries, start=1)]
    if not prompts:
        raise ConfigError(f"--sample_prompts {path}: no prompts. Write one, or leave the flag out.")
    return prompts


def _entries(path: Path) -> list[Any]:
    if path.suffix == ".toml":
        shared = dict(read_toml(path)["prompt"])
        return [{**shared, **subset} for subset in shared.pop("subset")]
    if path.suffix == ".json":
        return list(parse_json(read_text(path)))
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _prompt(path: Path, number: int, entry: Any) -> SamplePrompt:
    where = f"--sample_prompts {path}, prompt {number}"
    try:
        values = _options(entry) if isinstance(entry, str) else dict(entry)
        found = SamplePrompt(
            _text(values, "prompt"),
            Path(values["controlnet_image"]),
            _text(values, "negative_prompt"),
            _number(values.get("seed"), int),
            _number(values.get("sample_steps"), int),
            _number(values.get("scale"), float),
        )
    except KeyError:
        raise ConfigError(f"{where}: no mask; add --cn MASK to the line.") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {shortened(str(error))}. Correct it.") from error
    for text in (found.prompt, found.negative_prompt):
        if printable(text) != text:
            raise ConfigError(f"{where}: {shown(text)} is no text (half a character). Correct it.")
    if not _is_file(found.mask):
        name = shortened(str(found.mask), longest=LONGEST_PATH)
        raise ConfigError(f"{where}: {name}: no such file; expected a mask after --cn.")
    for flag, value in (
        ("seed", found.seed), ("sample_steps", found.steps), ("sample_cfg", found.cfg)
    ):  # fmt: skip
        try:
            check_option(TrainConfig.__dataclass_fields__[flag], value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _number(value: Any, kind: Callable[[Any], Any]) -> Any:
    """Raises ValueError for what would have to be rounded."""
    if value is None:
        return None
    number = kind(value)
    if isinstance(value, bool) or (kind is int and isinstance(value, float) and number != value):
        raise ValueError(f"{shown(value)} is no {'whole ' if kind is int else ''}number")
    return number


def _text(values: Mapping[str, Any], name: str) -> str:
    text = values.get(name, "")
    if not isinstance(text, str):
        raise ValueError(f"{name} is {shown(text)}, no text")
    return text


def _options(line: str) -> dict[str, Any]:
    """`PROMPT --n NEGATIVE --d SEED --s STEPS --l CFG --cn MASK`; other options do nothing here."""
    prompt, *options = re.split(r"\s--(?=\w)", line)
    values: dict[str, Any] = {"prompt": prompt.strip()}
    for option in options:
        letters, _, text = option.strip().partition(" ")
        if letters.lower() in OPTIONS:
            key, kind = OPTIONS[letters.lower()]
            values[key] = kind(text.strip())
    return values
