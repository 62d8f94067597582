"""sd-scripts' dataset configuration (`--dataset_config`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ...common.pairs import DatasetError, Listing
from ...common.text import shortened, shown
from ..config import TrainConfig
from ..errors import ConfigError
from ..sd_scripts_options import MOST_PAIRS
from ..toml_files import Table, read_toml
from .captions import CaptionStyle
from .listing import CAPTION_SUFFIXES, read_folders
from .pair_settings import own_settings, with_settings

# A host's: a dataset TOML's content, and a list to add problems to -> the subsets with the keys
# that they inherit, by the subset's name in messages.
ResolveSubsets = Callable[[Table, list[str]], dict[str, Table]]

# Keys that are flags, with the flag's name. A run has one of each of RUN_FLAGS; datasets may differ
# in the others, and subsets in the last group.
RUN_FLAGS = {"batch_size": "train_batch_size", "validation_split": "validation_split"}
DATASET_FLAGS = {
    name: name
    for name in (
        "resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps",
        "bucket_no_upscale",
    )
}  # fmt: skip
SUBSET_FLAGS = {"flip_aug": "flip_aug", "caption_dropout_rate": "caption_dropout_rate"}
FLAGS = RUN_FLAGS | DATASET_FLAGS | SUBSET_FLAGS
CAPTION_KEYS = {item.name for item in fields(CaptionStyle)}
SUBSET_KEYS = {"num_repeats", "caption_extension"} | CAPTION_KEYS
FOLDERS = {"image_dir", "conditioning_data_dir"}
INHERITED = FLAGS.keys() | SUBSET_KEYS
# Of no effect in sd-scripts' own training of ControlNets, or on the speed of reading only.
HARMLESS = {
    "cache_info",
    "debug_dataset",
    "network_multiplier",
    "token_warmup_min",
    "token_warmup_step",
    "validation_seed",
}
# sd-scripts' other switches: they may be there if they are off.
OFF = {
    "alpha_mask",
    "caption_dropout_every_n_epochs",
    "color_aug",
    "enable_wildcard",
    "is_reg",
    "keep_tokens_separator",
    "random_crop",
}


def read_dataset_toml(
    path: Path, config: TrainConfig, resolve_subsets: ResolveSubsets
) -> tuple[TrainConfig, Listing]:
    """The flags that the file sets, and the pairs of its subsets, each `num_repeats` times.

    As in sd-scripts the file wins over the command line, and its folders are relative to the
    working directory. Raises DatasetError naming every key that is wrong or cannot have an effect.
    """
    try:
        content = read_toml(path)
    except ValueError as error:
        raise DatasetError(path, [str(error)]) from error
    problems: list[str] = []
    subsets = resolve_subsets(content, problems)
    flags = _flags(subsets, config, problems)
    if problems:
        raise DatasetError(path, problems)
    try:
        run = replace(config, **flags)
        own = {where: replace(config, **_own_flags(keys)) for where, keys in subsets.items()}
        for keys in subsets.values():
            replace(config, **{name: keys[name] for name in CAPTION_KEYS if name in keys})
    except ConfigError as error:
        raise DatasetError(path, [str(error)]) from error
    listing = Listing()
    for where, keys in subsets.items():
        found, repeats = _pairs(keys, run, own[where])
        if len(listing.pairs) + len(found.pairs) * repeats > MOST_PAIRS:
            problem = (
                f"{where}: num_repeats {repeats} makes over {MOST_PAIRS} pairs in all; lower it"
            )
            raise DatasetError(path, [problem])
        found.pairs *= repeats
        listing += found
    return run, listing


def _pairs(keys: Table, run: TrainConfig, own: TrainConfig) -> tuple[Listing, int]:
    """The pairs of a subset, and how often each is to be seen in an epoch."""
    suffix = keys.get("caption_extension", run.caption_extension)
    found = read_folders(
        Path(keys["image_dir"].strip()),
        Path(keys["conditioning_data_dir"].strip()),
        (suffix,) if suffix else CAPTION_SUFFIXES,
    )
    chosen = {name: keys[name] for name in CAPTION_KEYS if name in keys}
    style = replace(CaptionStyle.of(run), **chosen)
    settings = own_settings(run, own)
    found.pairs = [with_settings(pair, settings, style, run.seed) for pair in found.pairs]
    return found, keys.get("num_repeats", run.dataset_repeats)


def plain_subsets(content: Table, problems: list[str]) -> dict[str, Table]:
    """The keys of each subset with those that it inherits, by the subset's name in messages."""
    unknown = sorted(content.keys() - {"general", "datasets"})
    problems += [
        f"{shortened(key)}: unknown; expected [general] and [[datasets]]" for key in unknown
    ]
    shared = check_table("[general]", content.get("general", {}), INHERITED, problems)
    found: dict[str, Table] = {}
    for number, dataset in enumerate(_tables(content, "datasets", "file", problems), start=1):
        name = f"[[datasets]] {number}"
        rest = {key: value for key, value in dataset.items() if key != "subsets"}
        own = check_table(name, rest, INHERITED, problems)
        for index, subset in enumerate(_tables(dataset, "subsets", name, problems), start=1):
            where = f"{name}, subset {index}"
            keys = check_table(where, subset, SUBSET_FLAGS.keys() | SUBSET_KEYS | FOLDERS, problems)
            missing = sorted(FOLDERS - subset.keys())
            problems += [f"{where}: {key} is missing; give a folder" for key in missing]
            found[where] = {**shared, **own, **keys}
    return found


def _tables(parent: Table, key: str, where: str, problems: list[str]) -> list[Table]:
    """An array of tables, at least one."""
    value = parent.get(key)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return value
    found = f"{key} is {shown(value)}" if key in parent else f"{key} are missing"
    table = f"[[{'datasets.' * (key == 'subsets')}{key}]]"
    problems.append(f"{where}: {found}; expected {table}")
    return []


def check_table(where: str, table: Any, allowed: Set[str], problems: list[str]) -> Table:
    """The keys of one table that are right; the others are added to the problems."""
    if not isinstance(table, dict):
        problems.append(f"{where}: is {shown(table)}; expected a table")
        return {}
    used = {
        key: value
        for key, value in table.items()
        if key not in HARMLESS and (value or key not in OFF)
    }
    refused = [key for key in used if key not in allowed]
    if refused:
        problems.append(
            f"{where}: {shortened(', '.join(refused))}: unknown, or without "
            "an effect on this training; "
            f"correct or remove (understood here: {', '.join(sorted(allowed))})"
        )
    good = {}
    for key in used.keys() & allowed:
        if wrong := _wrong(key, used[key]):
            problems.append(f"{where}: {key} is {shown(used[key])}; expected {wrong}")
        else:
            good[key] = used[key]
    return good


def _wrong(key: str, value: Any) -> str:
    """What was expected instead of a value of the wrong type, or nothing."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key in ("enable_bucket", "flip_aug", "bucket_no_upscale", "shuffle_caption"):
        return "" if isinstance(value, bool) else "true or false"
    if key in ("validation_split", "caption_dropout_rate", "caption_tag_dropout_rate"):
        return "" if whole or isinstance(value, float) else "a number"
    if key == "resolution":
        two = isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)
        return "" if whole or two else "SIZE or [WIDTH, HEIGHT]"
    if key == "caption_extension":
        dotted = isinstance(value, str) and value.startswith(".")
        return "" if dotted else 'an extension such as ".txt"'
    if key in FOLDERS or key in ("caption_prefix", "caption_suffix", "caption_separator"):
        return "" if isinstance(value, str) else "a text"
    if key == "num_repeats":
        return "" if whole and value > 0 else "a number above 0"
    return "" if whole else "a whole number"


def _flags(
    subsets: Mapping[str, Table], config: TrainConfig, problems: list[str]
) -> dict[str, Any]:
    """The run's flags: those of its subsets, of the first one where they may differ."""
    own = {where: _own_flags(keys) for where, keys in subsets.items()}
    flags: dict[str, Any] = {}
    for key, name in FLAGS.items():
        default = getattr(config, name)
        values = {where: given.get(name, default) for where, given in own.items()}
        if key in RUN_FLAGS and len({*values.values()}) > 1:
            each = "; ".join(f"{where}: {value}" for where, value in values.items())
            problems.append(f"{key} differs ({each}); one run has one {key}")
        if any(name in given for given in own.values()):
            flags[name] = next(iter(values.values()))
    return flags


def _own_flags(keys: Table) -> dict[str, Any]:
    """The flags that a subset sets or inherits."""
    return {
        name: _resolution(keys[key]) if key == "resolution" else keys[key]
        for key, name in FLAGS.items()
        if key in keys
    }


def _resolution(value: int | Sequence[int]) -> str:
    """As --resolution has it."""
    width, height = (value, value) if isinstance(value, int) else value
    return str(width) if width == height else f"{width},{height}"
