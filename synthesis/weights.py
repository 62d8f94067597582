"""Which weight files a run uses, by their headers: before anything large is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.hashes import file_hash
from ..common.text_files import parse_json, read_text
from ..models.kinds import Kind, identify
from ..models.metadata import FOLDER_HASH, SiameseMetadata, read_metadata
from ..models.weights import (
    SAFETENSORS,
    WeightsError,
    check_is_file,
    check_kind,
    is_safetensors,
    read_shapes,
    read_strings,
)
from .errors import SynthesisError

TRAINING_SETTINGS = "config.json"  # what training writes beside its bundle
BASE_FLAG = "pretrained_model_name_or_path"


@dataclass(frozen=True)
class Weights:
    """A base checkpoint and the bundle trained on it; no bundle where the checkpoint is merged.

    metadata: the bundle's or merged checkpoint's; None where it has none. v_parameterization: the
    base predicts v. tokenizer_dir: as in training.
    """

    base: Path
    bundle: Path | None
    metadata: SiameseMetadata | None
    v_parameterization: bool
    tokenizer_dir: Path | None = None

    @property
    def classes(self) -> dict[str, str]:
        """What a mask's values mean; "#rrggbb" for palette masks."""
        return dict(self.metadata.mask_classes) if self.metadata else {}

    def to_values(self) -> dict[str, Any]:
        """Hashes and recipe, as in the manifest. Reads every file whose hash is not known."""
        known = self.metadata.base_hash if self.metadata and self.bundle else None
        values = {"base": known or file_hash(self.base)}
        if self.bundle:
            values["bundle"] = file_hash(self.bundle)
        recipe = json.loads(self.metadata.recipe.to_json()) if self.metadata else None
        return {"sha256": values, "recipe": recipe, "v_parameterization": self.v_parameterization}


def find_weights(
    base: Path | None,
    bundle: Path | None,
    checkpoint: Path | None,
    v_parameterization: bool,
    tokenizer_dir: Path | None,
) -> Weights:
    """What the flags name. Raises SynthesisError for a wrong combination, and WeightsError."""
    if (checkpoint is None) == (bundle is None) or (checkpoint and base):
        raise SynthesisError(
            "Give the weights in one way: --bundle with --pretrained_model_name_or_path, or "
            "--checkpoint, a merged one."
        )
    trained = bundle or checkpoint
    if trained is None:
        raise AssertionError("one of the two is given")
    check_is_file(trained)
    if is_safetensors(trained):
        check_kind(
            trained,
            identify(read_shapes(trained)),
            [Kind.BUNDLE, Kind.LOW_RANK] if bundle else [Kind.MERGED],
        )
    metadata = read_metadata(read_strings(trained), str(trained))
    if checkpoint is not None:
        base = checkpoint
    elif base is None:
        base = _named_base(trained, metadata)
    check_is_file(base)
    v = metadata.prediction_type == "v" if metadata else v_parameterization
    return Weights(base, bundle, metadata, v, tokenizer_dir)


def _named_base(bundle: Path, metadata: SiameseMetadata | None) -> Path:
    """The file with the hash in the bundle's metadata, among those that are likely.

    These are the one that the training beside the bundle names, and the files beside it.
    """
    if metadata is None or metadata.base_hash.startswith(FOLDER_HASH):
        raise SynthesisError(
            f"{bundle}: its metadata names no base checkpoint; give it with --{BASE_FLAG}."
        )
    for path in _candidates(bundle):
        if path != bundle and file_hash(path) == metadata.base_hash:
            return path
    raise SynthesisError(
        f"{bundle}: was trained on a checkpoint with SHA-256 {metadata.base_hash}, which is "
        f"neither beside it nor where {TRAINING_SETTINGS} says; give it with --{BASE_FLAG}."
    )


def _candidates(bundle: Path) -> Iterator[Path]:
    with suppress(OSError, ValueError, KeyError, TypeError):  # not beside its training
        named = Path(parse_json(read_text(bundle.parent / TRAINING_SETTINGS))[BASE_FLAG])
        if named.is_file():
            yield named
    for path in sorted(bundle.parent.iterdir()):
        if path.suffix in (*SAFETENSORS, ".ckpt", ".pth", ".pt") and path.is_file():
            yield path


def check_base(weights: Weights, found: str) -> None:
    """Raise WeightsError where the bundle was trained on another base than that of hash `found`.

    A base that was a diffusers folder has no hash to compare; keys and shapes are compared.
    """
    expected = weights.metadata.base_hash if weights.metadata and weights.bundle else found
    if expected != found and not expected.startswith(FOLDER_HASH):
        raise WeightsError(
            f"{weights.bundle}: was trained on a base model with SHA-256 {expected}; "
            f"{weights.base} has {found}. Give the checkpoint it was trained on."
        )
