"""The metadata of a Siamese bundle: strings in its safetensors header.

`modelspec.*` follows SAI ModelSpec 1.0.0; `siamese.*` is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from .recipe import RECIPES, Recipe
from .weights import DHI_KEY, WeightFile, WeightsError

FORMAT_VERSION = 1
FOLDER_HASH = "diffusers:"  # begins the base hash of a folder: no single file can have it
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
    title: str = "Siamese-Diffusion"
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

    Raises WeightsError for a newer format version or damaged values; `what` names the file.
    """
    if "siamese.format_version" not in strings:
        return None
    try:
        version = int(strings["siamese.format_version"])
        if version > FORMAT_VERSION:
            raise WeightsError(
                f"{what}: written by a newer version of this pack (format {version}; this one "
                f"reads up to {FORMAT_VERSION}). Update ComfyUI-Siamese-Diffusion."
            )
        width, height = map(int, strings["siamese.resolution"].split("x"))
        architecture = strings.get("modelspec.architecture", "").removesuffix("/siamese")
        return SiameseMetadata(
            recipe=Recipe.from_json(strings["siamese.recipe"]),
            resolution=(width, height),
            step=int(strings["siamese.step"]),
            base_hash=strings["siamese.base_hash"],
            mask_classes=json.loads(strings["siamese.mask_classes"]),
            prediction_type=strings.get("modelspec.prediction_type", "epsilon"),
            title=strings.get("modelspec.title", ""),
            host=strings.get("siamese.host", "standalone"),
            context_dim=SD2_CONTEXT if architecture in SD2_ARCHITECTURES.values() else SD1_CONTEXT,
        )
    except (KeyError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{what}: damaged metadata ({error!r}). Train or copy it again."
        ) from error


def read_recipe(weights: WeightFile) -> Recipe:
    """The recipe in the metadata, which must allow the DHI's channels; else what these suggest.

    Raises WeightsError when they contradict each other.
    """
    channels = weights.control()[DHI_KEY].shape[1]
    metadata = read_metadata(weights.metadata, str(weights.path))
    if metadata is None:
        return RECIPES["published" if channels == 3 else "concat"]
    allowed = {metadata.recipe.hint_channels(n) for n in (1, 3)}
    if channels not in allowed:
        raise WeightsError(
            f"{weights.path}: its recipe needs {sorted(allowed)} hint channels; its weights have "
            f"{channels}. The file is damaged or mixed from two; train it again."
        )
    return metadata.recipe
