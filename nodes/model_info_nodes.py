"""The node that describes a weight file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor

from ..models.kinds import ADVICE, DHI_KEY, SIAMESE_KINDS
from ..models.metadata import FOLDER_HASH, SiameseMetadata, check_metadata
from ..models.recipe import RECIPES
from ..models.weights import WeightFile, read_weights
from .schema import checked, file_fingerprint, file_path, node_schema

FOLDERS = ("controlnet", "checkpoints", "loras")


class SiameseModelInfo(io.ComfyNode):
    """Weight file -> a text that describes it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseModelInfo",
            display_name="Siamese Model Info",
            description=(
                "Describes a weight file: its kind, recipe, resolution, classes, base model and "
                "training step. Read from its keys and metadata, not from its name."
            ),
            search_aliases=["siamese", "metadata", "which model", "inspect"],
            inputs=[
                io.Combo.Input(
                    "file_name",
                    options=[
                        f"{folder}/{name}"
                        for folder in FOLDERS
                        for name in folder_paths.get_filename_list(folder)
                    ],
                    tooltip="Any file in models/controlnet, models/checkpoints or models/loras.",
                )
            ],
            outputs=[
                io.String.Output(
                    display_name="text", tooltip="The description, also shown on the node."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, file_name: str) -> str:
        return file_fingerprint(*file_name.split("/", 1))

    @classmethod
    @checked
    def execute(cls, file_name: str) -> io.NodeOutput:
        path = file_path(*file_name.split("/", 1))
        text = f"{file_name} ({_size(path)})\n{describe(read_weights(path))}"
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def describe(weights: WeightFile) -> str:
    """One line for each known property of the file. Raises WeightsError for damaged metadata."""
    lines = [f"kind: {weights.kind.value}", ADVICE[weights.kind]]
    if weights.kind not in SIAMESE_KINDS:
        return "\n".join(lines)
    metadata = check_metadata(weights)
    if metadata is None:
        lines.append("metadata: none, as in the published files; recipe and base are not known")
    else:
        lines += _metadata_lines(metadata)
    control, decoder = weights.control(), weights.decoder()
    lines += [
        f"hint channels: {control[DHI_KEY].shape[1]}",
        f"ControlNet: {_count(control)} parameters",
        f"trained decoder: {f'{_count(decoder)} parameters' if decoder else 'not in this file'}",
    ]
    return "\n".join(lines)


def _metadata_lines(metadata: SiameseMetadata) -> list[str]:
    names = [name for name, recipe in RECIPES.items() if recipe == metadata.recipe]
    choices = ", ".join(f"{key} {value}" for key, value in asdict(metadata.recipe).items())
    width, height = metadata.resolution
    return [
        f"recipe: {names[0] if names else 'of its own'} ({choices})",
        f"resolution: {width}x{height}",
        f"mask classes: {json.dumps(dict(metadata.mask_classes), ensure_ascii=False)}",
        f"base model: {_base(metadata.base_hash)}",
        f"prediction: {metadata.prediction_type}",
        f"step: {metadata.step}",
        f"trained with: {metadata.host}",
    ]


def _base(base_hash: str) -> str:
    if base_hash.startswith(FOLDER_HASH):
        return f"a diffusers folder, SHA-256 of its files {base_hash.removeprefix(FOLDER_HASH)}"
    return f"SHA-256 {base_hash}"


def _count(tensors: Mapping[str, Tensor]) -> str:
    return f"{sum(value.numel() for value in tensors.values()) / 1e6:.1f} M"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.0f} MiB"
