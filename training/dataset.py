"""From the flags to a checked dataset: every file opened once, every problem in one report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..models.metadata import file_hash
from ..models.pictures import read_image, read_mask, read_palette_mask
from .dataset_toml import read_dataset_toml
from .errors import ConfigError
from .framing import Size
from .host import Host
from .options import TrainConfig
from .pairs import DatasetError, Listing, Pair, read_folders, read_prompt_jsonl

MAX_COLOURS = 64
DARK = 32  # of 255: colours up to here are class numbers, not colours


@dataclass(frozen=True)
class PairInfo:
    """What checking a pair found.

    size: (width, height) in pixels. coverage: share of the mask that is not black.
    colours: of a palette mask, 0xRRGGBB; empty for binary masks. digest: SHA-256 of the image file.
    """

    size: Size
    coverage: float
    colours: frozenset[int]
    digest: str


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
        masks = {mask: file_hash(mask) for mask in {pair.mask for pair in self.infos}}
        for pair in self.pairs:
            digest.update(f"{self.infos[pair].digest}{masks[pair.mask]}{pair.caption}".encode())
        return digest.hexdigest()

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """(training, validation) with about `fraction` of the file stems in the second.

        Equal stems, such as tiles of one source in several folders, stay together. Which stems are
        chosen depends on the seed and on the stems alone. Raises ConfigError when none is left.
        """
        stems = sorted(
            {pair.stem for pair in self.pairs},
            key=lambda stem: hashlib.sha256(f"{seed}/validation/{stem}".encode()).digest(),
        )
        count = max(1, round(fraction * len(stems))) if fraction > 0 else 0
        if count >= len(stems):
            raise ConfigError(
                f"--validation_split {fraction} keeps {count} of {len(stems)} file stems: none is "
                "left to train on. Lower it, or add pairs."
            )
        held_out = set(stems[:count])
        training = tuple(pair for pair in self.pairs if pair.stem not in held_out)
        validation = tuple(pair for pair in self.infos if pair.stem in held_out)
        return replace(self, pairs=training), replace(self, pairs=validation)


def load_dataset(config: TrainConfig, host: Host) -> tuple[TrainConfig, Dataset]:
    """Read and check what the flags name; a dataset TOML may also set flags.

    Raises ConfigError for wrong flags, DatasetError listing everything that is wrong in the files.
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
        return config, check(str(images), read_folders(images, masks), config.mask_mode)
    if toml is not None:
        _check_file(toml, "--dataset_config", ".toml")
        config, listing = read_dataset_toml(toml, config, host)
        return config, check(str(toml), listing, config.mask_mode)
    _check_file(given[0], "--train_data", ".jsonl")
    return config, check(str(file), read_prompt_jsonl(given[0]), config.mask_mode)


def _check_file(path: Path, flag: str, suffix: str) -> None:
    """Raise DatasetError for what is no file, or obviously meant for another flag."""
    if path.is_dir():
        raise DatasetError(path, ["a folder; give it as --train_data_dir"])
    if not path.is_file():
        raise DatasetError(path, [f"no such file ({flag} expects a {suffix})"])
    if flag == "--train_data" and path.suffix.lower() == ".toml":
        raise DatasetError(path, ["a dataset of sd-scripts; give it as --dataset_config"])


def check(source: str, listing: Listing, mask_mode: str) -> Dataset:
    """Open every file once. Raises DatasetError with all that is wrong, in the dataset's order."""
    pairs = list(dict.fromkeys(listing.pairs))
    with ThreadPoolExecutor() as pool:
        checks = pool.map(lambda pair: _check_pair(pair, mask_mode), pairs)
        # None: a bar on a terminal only.
        results = list(tqdm(checks, "checking pairs", len(pairs), leave=False, disable=None))
    problems = listing.problems + [problem for _, found in results for problem in found]
    infos = {pair: info for pair, (info, _) in zip(pairs, results, strict=True) if info}
    if not problems:
        problems = _check_masks(infos, mask_mode)
    if problems:
        raise DatasetError(source, problems)
    notes = [*listing.notes, *_empty_masks(infos)]
    return Dataset(source, tuple(listing.pairs), infos, mask_mode, tuple(notes))


def _check_pair(pair: Pair, mask_mode: str) -> tuple[PairInfo | None, list[str]]:
    problems, pictures = [], []
    readers = {
        "image": read_image,
        "mask": read_mask if mask_mode == "binary" else read_palette_mask,
    }
    for role, path in (("image", pair.image), ("mask", pair.mask)):
        try:
            pictures.append(readers[role](path))
        except ValueError as error:
            problems.append(f"{pair.where}{role} {error}")
    if problems:
        return None, problems
    image, mask = pictures
    height, width = image.shape[:2]
    if mask.shape[:2] != (height, width):
        problems.append(
            f"{pair.where}mask {pair.mask} is {mask.shape[1]}x{mask.shape[0]}, its image "
            f"{pair.image} is {width}x{height}; they must be equal"
        )
    colours: frozenset[int] = frozenset()
    if mask_mode == "palette":
        mask = packed(mask)
        colours = frozenset(np.unique(mask).tolist())
        if len(colours) > MAX_COLOURS:
            problems.append(
                f"{pair.where}mask {pair.mask} has {len(colours)} colours; expected one a class, "
                f"at most {MAX_COLOURS}. Save masks as PNG, without smoothed edges"
            )
    if problems:
        return None, problems
    coverage = float((mask != 0).mean())
    return PairInfo((width, height), coverage, colours, file_hash(pair.image)), []


def packed(mask: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3), uint8, as (H, W), 0xRRGGBB."""
    red, green, blue = np.moveaxis(mask.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def hex_colour(colour: int) -> str:
    return f"#{colour:06x}"


def _check_masks(infos: Mapping[Pair, PairInfo], mask_mode: str) -> list[str]:
    """What no single mask shows: masks that are all empty, or hold class numbers, not colours."""
    if mask_mode == "binary":
        if any(info.coverage for info in infos.values()):
            return []
        return [
            f"all {len(infos)} masks are empty: no pixel is above half of its file's range (127 of "
            "255, 32767 of 65535). Multiply masks of 0 and 1 by 255; for a colour per class give "
            "--mask_mode palette"
        ]
    colours = set().union(*(info.colours for info in infos.values()))
    brightest = max(max(colour.to_bytes(3, "big")) for colour in colours)
    if len(colours) > MAX_COLOURS:
        return [f"the masks have {len(colours)} colours together; expected at most {MAX_COLOURS}"]
    if len(colours) == 1:
        return [f"all masks have one colour, {hex_colour(*colours)}; expected a colour per class"]
    if brightest < DARK:
        return [
            f"the masks' brightest value is {brightest} of 255: class numbers, not colours, which "
            "the network could hardly tell apart. Save them with a palette, a colour per class"
        ]
    return []


def _empty_masks(infos: Mapping[Pair, PairInfo]) -> list[str]:
    empty = [pair.mask for pair, info in infos.items() if not info.coverage]
    count = f"{len(empty)} of {len(infos)} masks are empty"
    return [f"{count}; the first: {empty[0]}"] if empty else []
