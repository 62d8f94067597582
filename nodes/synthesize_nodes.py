"""The node that makes a whole dataset from a folder of masks."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..common.backgrounds import EDGE, WIDEST_EDGE, Backgrounds
from ..models.contrast import LEAST
from .dataset_nodes import mask_folder_inputs, output_inputs, saved_result
from .folders import choose, image_files, input_folder
from .folders import output_folder as folder_in_output
from .pair_folder import PairFolder, png_metadata
from .sampler_nodes import model_inputs, sampling_inputs
from .sampling import Settings, Sources
from .schema import checked, node_schema
from .synthesize import Work, plan

MAX_BATCH = 64
SHOWN = 4  # of the new images, on the node


class SiameseSynthesizeDataset(io.ComfyNode):
    """Folder of masks -> folder of pairs, one batch of images in memory at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseSynthesizeDataset",
            display_name="Siamese Synthesize Dataset",
            description=(
                "Samples images for each mask of a folder and saves them with their masks as a "
                "dataset: images/, masks/ and prompt.jsonl. Only one batch is in memory at a time, "
                "however many masks there are. After an interruption, queue it again to resume."
            ),
            search_aliases=["siamese", "mask to image", "batch", "folder", "generate dataset"],
            inputs=[
                *model_inputs(),
                io.Vae.Input("vae", tooltip="VAE of the base or merged checkpoint."),
                *mask_folder_inputs(),
                *output_inputs("output_folder"),
                io.Int.Input(
                    "images_per_mask", default=1, min=1, max=10_000,
                    tooltip="How many different images to make of each mask.",
                ),
                *sampling_inputs(),
                *_background_inputs(),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=MAX_BATCH, optional=True,
                    tooltip="How many images are sampled at once, of masks of one size. More is "
                    "faster on a GPU and takes more memory; the images stay the same. Samplers "
                    "that add noise at each step, such as euler_ancestral, take one at a time.",
                ),
                io.Float.Input(
                    "least_contrast", default=1.0, min=LEAST, max=1.0, step=0.05, optional=True,
                    tooltip="Each image keeps a random share of its contrast, from this on; 1: all "
                    "of it. For labels too few to show dim lesions. Not with backgrounds.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="text", tooltip="How many pairs were made and where they are."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_inputs: Any) -> float:
        return float("nan")  # always run: it looks for itself what is there already

    @classmethod
    @checked
    def execute(  # noqa: PLR0913 - one argument for each input of the node
        cls,
        *,
        folder: str,
        subfolders: bool,
        start: int,
        count: int,
        output_folder: str,
        prompt: str,
        images_per_mask: int,
        vae: Any,
        width: int = 0,
        height: int = 0,
        batch_size: int = 1,
        backgrounds: str = "",
        edge: int = EDGE,
        least_contrast: float = 1.0,
        **others: Any,
    ) -> io.NodeOutput:
        masks = choose(image_files(input_folder(folder), subfolders), start, count)
        target = folder_in_output(output_folder)
        sources = Sources(**{field.name: others.pop(field.name) for field in fields(Sources)})
        settings = Settings(**others)
        behind = _backgrounds(backgrounds, edge)
        if behind and least_contrast < 1:
            raise ValueError(
                f"least_contrast is {least_contrast:g}, with backgrounds, which stay as they are; "
                "expected 1. Set it to 1, or leave backgrounds empty."
            )
        size = (width, height)
        planned = plan(masks, images_per_mask)
        with PairFolder(target, png_metadata(cls.hidden)) as pairs:
            work = Work(
                pairs, sources, vae, size, settings, prompt, behind, batch_size, least_contrast
            )
            new = list(work.run(planned))
        there = len(planned) - len(new)
        # Not the whole path: the page saves the text with the workflow, and that in every picture.
        where = f"output/{target.relative_to(folder_paths.get_output_directory()).as_posix()}"
        text = f"{len(planned)} pairs in {where}: {len(new)} new, {there} were there already"
        shown = [saved_result(path) for path in new[-SHOWN:]]
        return io.NodeOutput(text, ui={"images": shown, "text": (text,)})


def _background_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "backgrounds", default="", optional=True,
            tooltip="A folder in ComfyUI's input folder with images that show no lesion: lesions "
            "are painted into them, and each pair has the size of its background. Empty: whole "
            "images are made.",
        ),
        io.Int.Input(
            "edge", default=EDGE, min=0, max=WIDEST_EDGE, optional=True,
            tooltip="With backgrounds: width in pixels of the edge around the lesion that blends "
            "into the background. Beyond it, the background stays as it is.",
        ),
    ]  # fmt: skip


def _backgrounds(folder: str, edge: int) -> Backgrounds | None:
    """Raises ValueError for a folder that is not there or holds no images."""
    if not folder.strip():
        return None
    return Backgrounds(list(image_files(input_folder(folder), subfolders=True).values()), edge)
