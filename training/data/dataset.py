"""From the flags to a checked dataset: every file opened once, every problem in one report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...common.colours import hex_colour
from ...common.pair_check import check_pairs
from ...common.pair_info import CheckCache, PairInfo
from ...common.pairs import DatasetError, Listing, Pair
from ...common.prompt_jsonl import read_prompt_jsonl
from ...common.text import as_bytes
from ..config import TrainConfig
from ..errors import ConfigError
from ..sd_scripts_options import MOST_PAIRS
from .captions import CaptionStyle
from .dataset_toml import ResolveSubsets, read_dataset_toml
from .listing import CAPTION_SUFFIXES, read_folders
from .pair_settings import THE_RUNS, with_settings


@dataclass(frozen=True)
class Dataset:
    """Checked pairs, in order; a pair that is repeated is there several times."""

    source: str
    pairs: tuple[Pair, ...]
    infos: Mapping[Pair, PairInfo]
    mask_mode: str
    notes: tuple[str, ...] = ()

    def colours(self) -> list[int]:
        """Colours of palette masks, 0xRRGGBB, sorted; black, if there, first."""
        return sorted(set().union(*(info.colours for info in self.infos.values())))

    def mask_classes(self) -> dict[str, str]:
        """What the values of a mask mean, as the weights' metadata says it."""
        if self.mask_mode == "binary":
            return {"255": "lesion"}
        colours = self.colours()
        first = 0 if 0 in colours else 1
        return {
            hex_colour(colour): f"class {number}" if number else "background"
            for number, colour in enumerate(colours, first)
        }

    def fingerprint(self) -> str:
        """Changes with any image, mask or caption, and with their order."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            own = "" if pair.settings is None else repr(pair.settings)
            info = self.infos[pair]
            content = f"{info.digest}{info.mask_digest}{pair.caption}{own}"
            digest.update(content.encode())
        return digest.hexdigest()

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """(training, validation) with about `fraction` of the groups in the second.

        Pairs of one `group`, or without one of one file stem, such as tiles of one source in
        several folders, stay together. Which are held out depends on the seed and on these names
        alone. Raises ConfigError when none is left.
        """
        groups = sorted(
            {_group(pair) for pair in self.pairs},
            key=lambda name: hashlib.sha256(as_bytes(f"{seed}/validation/{name}")).digest(),
        )
        count = max(1, round(fraction * len(groups))) if fraction > 0 else 0
        if count >= len(groups):
            raise ConfigError(
                f"--validation_split {fraction} keeps {count} of {len(groups)} groups (or file "
                "stems): none is left to train on. Lower it, or add pairs."
            )
        held_out = set(groups[:count])
        training = tuple(pair for pair in self.pairs if _group(pair) not in held_out)
        validation = tuple(pair for pair in self.infos if _group(pair) in held_out)
        return replace(self, pairs=training), replace(self, pairs=validation)


def _group(pair: Pair) -> str:
    return pair.stem if pair.group is None else pair.group


def load_dataset(
    config: TrainConfig, resolve_subsets: ResolveSubsets
) -> tuple[TrainConfig, Dataset]:
    """Read and check what the flags name; a dataset TOML may also set flags.

    resolve_subsets: the host's, for a dataset TOML. Raises ConfigError for wrong flags,
    DatasetError listing everything that is wrong in the files.
    """
    images, masks = config.train_data_dir, config.conditioning_data_dir
    file, toml = config.train_data, config.dataset_config
    given = [source for source in (file, toml, images or masks) if source is not None]
    if len(given) != 1 or (images is None) != (masks is None):
        raise ConfigError(
            "Give the pairs in one way: as a prompt.jsonl with --train_data, as a dataset .toml of "
            "sd-scripts with --dataset_config, or as two folders with --train_data_dir (images) "
            "and --conditioning_data_dir (masks)."
        )
    if images is not None and masks is not None:
        suffixes = (config.caption_extension,) if config.caption_extension else CAPTION_SUFFIXES
        listing = _styled(read_folders(images, masks, suffixes), config)
        return config, check(str(images), listing, config)
    if toml is not None:
        _check_file(toml, "--dataset_config", ".toml")
        config, listing = read_dataset_toml(toml, config, resolve_subsets)
        return config, check(str(toml), listing, config)
    _check_file(given[0], "--train_data", ".jsonl")
    listing = _styled(read_prompt_jsonl(given[0]), config)
    return config, check(str(file), listing, config)


def _styled(listing: Listing, config: TrainConfig) -> Listing:
    """With captions and repeats as the flags say; a dataset TOML has its own."""
    style = CaptionStyle.of(config)
    listing.pairs = [with_settings(pair, THE_RUNS, style, config.seed) for pair in listing.pairs]
    repeats = config.dataset_repeats
    if len(listing.pairs) * repeats > MOST_PAIRS:
        problem = f"--dataset_repeats {repeats} makes over {MOST_PAIRS} pairs; lower it"
        raise DatasetError(config.train_data or config.train_data_dir, [problem])
    listing.pairs *= repeats
    return listing


def _check_file(path: Path, flag: str, suffix: str) -> None:
    """Raise DatasetError for what is not a file, or is meant for another flag."""
    if path.is_dir():
        raise DatasetError(path, ["a folder; give it as --train_data_dir"])
    if not path.is_file():
        raise DatasetError(path, [f"no such file ({flag} expects a {suffix})"])
    if flag == "--train_data" and path.suffix.lower() == ".toml":
        raise DatasetError(path, ["a dataset of sd-scripts; give it as --dataset_config"])


def check(source: str, listing: Listing, config: TrainConfig) -> Dataset:
    """Open every file once, but for those that an earlier run has found good.

    Raises DatasetError with all that is wrong, in the dataset's order.
    """
    name = hashlib.sha256(as_bytes(f"{config.mask_mode} {Path(source).absolute()}")).hexdigest()
    # A dry run writes nothing.
    cache = None if config.dry_run else CheckCache(config.cache_dir / f"checked-{name[:16]}.json")
    infos = check_pairs(source, listing, config.mask_mode, cache)
    notes = [*listing.notes, *_empty_masks(infos)]
    return Dataset(source, tuple(listing.pairs), infos, config.mask_mode, tuple(notes))


def _empty_masks(infos: Mapping[Pair, PairInfo]) -> list[str]:
    empty = [pair.mask for pair, info in infos.items() if not info.coverage]
    count = f"{len(empty)} of {len(infos)} masks are empty (black)"
    return [f"{count}; the first: {empty[0]}"] if empty else []
