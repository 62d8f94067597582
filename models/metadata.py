"""The metadata of a Siamese bundle: strings in its safetensors header.

`modelspec.*` follows SAI ModelSpec 1.0.0; `siamese.*` is ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from ..common.pixel_budget import LARGEST_SIDE
from ..common.text import shortened, shown, visible
from ..common.text_files import parse_json
from .kinds import DHI_KEY
from .recipe import RECIPES, Recipe
from .weights import WeightFile, WeightsError, first_line

FORMAT_VERSION = 1
FOLDER_HASH = "diffusers:"  # begins the base hash of a folder: no single file can have it
BASE_HASH = re.compile(f"({FOLDER_HASH})?[0-9a-f]{{64}}")
PREDICTION_TYPES = ("epsilon", "v")
LAST_STEP = 10**9
COLOUR, GREY = re.compile("#[0-9a-f]{6}"), re.compile("[0-9]{1,3}")  # values of a mask
MOST_CLASSES, LONGEST_NAME = 256, 200
TITLE = "Siamese-Diffusion"
TEXT_WEIGHT = ".attn2.to_k.weight"  # its last dimension is the width of the text embeddings
SD1_CONTEXT, SD2_CONTEXT = 768, 1024
# ModelSpec's names of the 2.x base models; there is one of 1.x, whatever it predicts.
SD1_ARCHITECTURE = "stable-diffusion-v1"
SD2_ARCHITECTURES = {"epsilon": "stable-diffusion-v2-512", "v": "stable-diffusion-v2-768-v"}


@dataclass(frozen=True)
class SiameseMetadata:
    """resolution: (width, height) in pixels.

    base_hash: SHA-256 of the base checkpoint's file, or of a diffusers folder after FOLDER_HASH.
    host: what trained it, "standalone" or "sd-scripts COMMIT".
    context_dim: width of the base's text embeddings, 768 (1.x) or 1024 (2.x).
    """

    recipe: Recipe
    resolution: tuple[int, int]
    step: int
    base_hash: str
    mask_classes: Mapping[str, str]
    prediction_type: str = "epsilon"
    title: str = TITLE
    host: str = "standalone"
    context_dim: int = SD1_CONTEXT

    @property
    def architecture(self) -> str:
        """ModelSpec's name of the base model."""
        if self.context_dim == SD2_CONTEXT:
            return SD2_ARCHITECTURES[self.prediction_type]
        return SD1_ARCHITECTURE

    def to_strings(self) -> dict[str, str]:
        width, height = self.resolution
        return {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"{self.architecture}/siamese",
            "modelspec.implementation": "https://github.com/Qiukunpeng/Siamese-Diffusion",
            "modelspec.title": self.title,
            "modelspec.resolution": f"{width}x{height}",
            "modelspec.prediction_type": self.prediction_type,
            "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "siamese.format_version": str(FORMAT_VERSION),
            "siamese.recipe": self.recipe.to_json(),
            "siamese.resolution": f"{width}x{height}",
            "siamese.step": str(self.step),
            "siamese.host": self.host,
            "siamese.base_hash": self.base_hash,
            "siamese.mask_classes": json.dumps(dict(self.mask_classes)),
        }


def read_metadata(strings: Mapping[str, str], what: str) -> SiameseMetadata | None:
    """Read `to_strings`'s output; None when the file has no `siamese.*` metadata.

    Raises WeightsError for a newer format version, for damaged values and for those that no
    training writes; `what` names the file. `check_metadata` compares them with the weights.
    """
    if not any(key.startswith("siamese.") for key in strings):
        return None
    try:
        version = int(strings["siamese.format_version"])
        if version > FORMAT_VERSION:
            raise WeightsError(
                f"{what}: written by a newer version of this pack (format {shortened(str(version))}"
                f"; this one reads up to {FORMAT_VERSION}). Update ComfyUI-Siamese-Diffusion."
            )
        if version < 1:
            raise ValueError(f"format_version is {version}; expected 1 to {FORMAT_VERSION}")
        width, height = map(int, strings["siamese.resolution"].split("x"))
        architecture = strings.get("modelspec.architecture", "").removesuffix("/siamese")
        metadata = SiameseMetadata(
            recipe=Recipe.from_json(strings["siamese.recipe"]),
            resolution=(width, height),
            step=int(strings["siamese.step"]),
            base_hash=strings["siamese.base_hash"],
            mask_classes=parse_json(strings["siamese.mask_classes"]),
            prediction_type=strings.get("modelspec.prediction_type", "epsilon"),
            title=strings.get("modelspec.title", ""),
            host=strings.get("siamese.host", "standalone"),
            context_dim=SD2_CONTEXT if architecture in SD2_ARCHITECTURES.values() else SD1_CONTEXT,
        )
        _check_ranges(metadata)
        if architecture not in ("", metadata.architecture):
            raise ValueError(
                f"architecture is {shown(architecture)}; expected {metadata.architecture}"
            )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else first_line(error)
        raise WeightsError(
            f"{what}: damaged metadata ({shortened(reason)}). Train or copy it again."
        ) from error
    return metadata


def _check_ranges(metadata: SiameseMetadata) -> None:
    """Raise ValueError for values that no training writes."""
    if not all(8 <= side <= LARGEST_SIDE and side % 8 == 0 for side in metadata.resolution):
        width, height = metadata.resolution
        raise ValueError(
            f"resolution is {width}x{height}; expected multiples of 8 up to {LARGEST_SIDE}"
        )
    if not 0 <= metadata.step <= LAST_STEP:
        raise ValueError(f"step is {metadata.step}; expected 0 to {LAST_STEP}")
    if metadata.prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type is {shown(metadata.prediction_type)}; expected one of "
            f"{PREDICTION_TYPES}"
        )
    if not BASE_HASH.fullmatch(metadata.base_hash):
        raise ValueError(f"base_hash is {shown(metadata.base_hash)}; expected a SHA-256")
    _check_classes(metadata.mask_classes)


def _check_classes(classes: object) -> None:
    """Raise ValueError unless these are names by the value that a mask has for each."""
    if not isinstance(classes, dict) or not all(isinstance(n, str) for n in classes.values()):
        raise ValueError("mask_classes is not a dictionary of names")
    palette = all(value.startswith("#") for value in classes)
    kind = COLOUR if palette else GREY
    wrong = [value for value in classes if not kind.fullmatch(value)]
    if wrong or len(classes) > MOST_CLASSES:
        found = shown(wrong[0]) if wrong else f"{len(classes)} values"
        raise ValueError(
            f"mask_classes has {found}; expected at most {MOST_CLASSES}, all 0 to 255 or #rrggbb"
        )
    odd = [name for name in classes.values() if len(name) > LONGEST_NAME or visible(name) != name]
    if odd:
        raise ValueError(f"mask_classes has the name {shown(odd[0])}; expected a short text")


def check_metadata(weights: WeightFile) -> SiameseMetadata | None:
    """The file's metadata, None without any. Raises WeightsError where its weights say otherwise.

    Compared are the hint's channels, and the width of the base's text embeddings.
    """
    metadata = read_metadata(weights.metadata, str(weights.path))
    if metadata is None:
        return None
    control = weights.control()
    channels = control[DHI_KEY].shape[1]
    palette = any(value.startswith("#") for value in metadata.mask_classes)
    values = (1, 3) if not metadata.mask_classes else (3,) if palette else (1,)
    allowed = {metadata.recipe.hint_channels(n) for n in values}
    if channels not in allowed:
        raise WeightsError(
            f"{weights.path}: its recipe needs {sorted(allowed)} hint channels; its weights have "
            f"{channels}. The file is damaged or mixed from two; train it again."
        )
    widths = {v.shape[-1] for k, v in control.items() if k.endswith(TEXT_WEIGHT) and v.ndim}
    if widths - {metadata.context_dim}:
        raise WeightsError(
            f"{weights.path}: its metadata says {metadata.architecture}, with text embeddings of "
            f"width {metadata.context_dim}; its weights have {max(widths)}. The file is damaged or "
            "mixed from two; train it again."
        )
    return metadata


def read_recipe(weights: WeightFile) -> Recipe:
    """The recipe in the metadata, checked against the weights; else what these suggest.

    Raises WeightsError when they contradict each other.
    """
    metadata = check_metadata(weights)
    if metadata is None:
        channels = weights.control()[DHI_KEY].shape[1]
        return RECIPES["published" if channels == 3 else "concat"]
    return metadata.recipe
