"""Nodes that read folders of masks and write folders of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor

from ..common.pictures import pixel_count
from .folders import (
    choose,
    folder_fingerprint,
    image_files,
    input_folder,
    output_folder,
    read_mask,
)
from .hints import image_batch, mask_batch
from .limits import check_total
from .pair_folder import PairFolder, png_metadata
from .progress import with_progress
from .schema import checked, node_schema


class SiameseLoadMaskFolder(io.ComfyNode):
    """Folder of masks -> list of masks, list of stems."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseLoadMaskFolder",
            display_name="Siamese Load Mask Folder",
            description=(
                "Loads the masks of a folder as a list, in natural order, with their names. The "
                "nodes after it run once for each mask. For hundreds of masks use 'Siamese "
                "Synthesize Dataset', which keeps only one in memory."
            ),
            search_aliases=["siamese", "load images from folder", "batch", "directory"],
            inputs=mask_folder_inputs(),
            outputs=[
                io.Mask.Output(
                    display_name="mask", is_output_list=True, tooltip="One mask for each file."
                ),
                io.String.Output(
                    display_name="stem", is_output_list=True,
                    tooltip="The file's path below the folder without extension, for 'Siamese "
                    "Save Pairs'.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(
        cls, folder: str | None, subfolders: bool | None, **_others: Any
    ) -> str | float:
        return folder_fingerprint(folder, subfolders)

    @classmethod
    @checked
    def execute(cls, folder: str, subfolders: bool, start: int, count: int) -> io.NodeOutput:
        files = choose(image_files(input_folder(folder), subfolders), start, count)
        pixels = sum(map(pixel_count, files.values()))
        check_total(
            pixels,
            f"the {len(files)} masks of {folder}",
            "Set count, or use 'Siamese Synthesize Dataset', which holds one mask at a time.",
        )
        masks = [read_mask(path) for path in with_progress(files.values())]
        return io.NodeOutput(masks, list(files))


def mask_folder_inputs() -> list[io.Input]:
    """The folder, and which of its masks."""
    return [
        io.String.Input(
            "folder", default="masks",
            tooltip="A folder in ComfyUI's input folder: 'masks' is input/masks. The lesion is "
            "white; values above 0.5 count as white.",
        ),
        io.Boolean.Input(
            "subfolders", default=False, tooltip="Also use the masks in its subfolders."
        ),
        io.Int.Input(
            "start", default=0, min=0, max=10**9,
            tooltip="Index of the first mask, from 0, in natural order (mask2 before mask10).",
        ),
        io.Int.Input(
            "count", default=0, min=0, max=10**9,
            tooltip="How many masks; 0 for all from 'start' on.",
        ),
    ]  # fmt: skip


class SiameseSavePairs(io.ComfyNode):
    """Images and masks -> files that train_siamese.py and segmentation networks read."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseSavePairs",
            display_name="Siamese Save Pairs",
            description=(
                "Saves images with their masks as a dataset: images/, masks/ and prompt.jsonl. "
                "Nothing is overwritten."
            ),
            search_aliases=["siamese", "save image", "dataset", "export"],
            inputs=[
                io.Image.Input("image", tooltip="One or more images."),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="The mask of each image, or one mask for all. Saved in pure black and "
                    "white, at the size of the image.",
                ),
                io.String.Input(
                    "stem", default="pair",
                    tooltip="Name of the files, without extension; connect 'stem' of 'Siamese "
                    "Load Mask Folder'. A number is added when the name is taken.",
                ),
                *output_inputs(),
                io.Image.Input(
                    "palette", optional=True,
                    tooltip="Instead of 'mask': an image that shows each class in its colour. "
                    "Saved in colour, at the size of the image.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls,
        *,
        image: Tensor,
        mask: Tensor | None = None,
        palette: Tensor | None = None,
        stem: str,
        folder: str,
        prompt: str,
    ) -> io.NodeOutput:
        grey = isinstance(image, Tensor) and image.ndim == 4 and image.shape[-1] == 1
        images = image_batch(image.expand(-1, -1, -1, 3) if grey else image).movedim(1, -1)
        masks = _masks_to_save(mask, palette)
        if len(masks) not in (1, len(images)):
            raise ValueError(
                f"{len(masks)} masks for {len(images)} images: give one mask for all images, or "
                "one for each."
            )
        saved = []
        with PairFolder(output_folder(folder), png_metadata(cls.hidden)) as pairs:
            for index in with_progress(range(len(images))):
                name = pairs.free_name(stem)
                pairs.write(name, images[index], masks[index % len(masks)], prompt)
                saved.append(saved_result(pairs.image(name)))
        return io.NodeOutput(ui=ui.SavedImages(saved))


def _masks_to_save(mask: Tensor | None, palette: Tensor | None) -> Tensor:
    """(B, 1, H, W), or of a palette (B, 1, H, W, 3). Raises ValueError unless one is given."""
    if mask is not None and palette is None:
        return mask_batch(mask)
    if palette is not None and mask is None:
        return image_batch(palette, "palette").movedim(1, -1)[:, None]
    raise ValueError(
        f"{'Neither' if mask is None else 'Both'} of 'mask' and 'palette' connected: connect "
        "'mask' to save black and white, or 'palette' to save a colour for each class."
    )


def output_inputs(folder: str = "folder") -> list[io.Input]:
    """Folder and caption of a dataset; `folder` is the id of the first input."""
    return [
        io.String.Input(
            folder, default="siamese/dataset",
            tooltip="A folder in ComfyUI's output folder, created if it does not exist.",
        ),
        io.String.Input(
            "prompt", default="",
            tooltip="The prompt used for sampling; saved as the caption in prompt.jsonl.",
        ),
    ]  # fmt: skip


def saved_result(path: Path) -> ui.SavedResult:
    """A file below the output folder, for the page to show."""
    relative = path.relative_to(folder_paths.get_output_directory())
    return ui.SavedResult(relative.name, relative.parent.as_posix(), io.FolderType.output)
