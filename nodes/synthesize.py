"""The node that makes a whole dataset from a folder of masks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import latent_preview
from comfy_api.latest import io
from torch import Tensor

from .dataset import mask_folder_inputs, output_inputs, saved_result
from .folders import choose, input_folder, pictures_below, read_mask
from .folders import output_folder as folder_in_output
from .pair_folder import PairFolder, png_metadata
from .sampler import Sources, model_inputs, sample_masks, sampling_inputs
from .sampling import Callback, Settings
from .schema import node_schema, show_text

SHOWN = 4  # of the new images, on the node


class SiameseSynthesizeDataset(io.ComfyNode):
    """Folder of masks -> folder of pairs, one image in memory at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseSynthesizeDataset",
            display_name="Siamese Synthesize Dataset",
            description=(
                "Samples images for each mask of a folder and saves them with their masks as a "
                "dataset: images/, masks/ and prompt.jsonl. It holds one image at a time, however "
                "many masks there are. Queued again, it goes on where it was interrupted."
            ),
            search_aliases=["siamese", "mask to image", "batch", "folder", "generate dataset"],
            inputs=[
                *model_inputs(),
                io.Vae.Input("vae", tooltip="VAE of the base or merged checkpoint."),
                *mask_folder_inputs(),
                *output_inputs("output_folder"),
                io.Int.Input(
                    "images_per_mask", default=1, min=1, max=10_000,
                    tooltip="How many different images of each mask.",
                ),
                *sampling_inputs(),
            ],
            outputs=[
                io.String.Output(
                    display_name="text", tooltip="How many pairs were made and where they are."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_inputs: Any) -> float:
        return float("nan")  # always run: it looks for itself what is there already

    @classmethod
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
        **others: Any,
    ) -> io.NodeOutput:
        masks = choose(pictures_below(input_folder(folder), subfolders), start, count)
        pairs = PairFolder(folder_in_output(output_folder), png_metadata(cls.hidden))
        sources = Sources(**{field.name: others.pop(field.name) for field in fields(Sources)})
        settings = Settings(**others)
        work = Work(pairs, sources, vae, (width, height), settings, prompt)
        planned = plan(masks, images_per_mask)
        new = list(work.run(planned))
        there = len(planned) - len(new)
        text = f"{len(planned)} pairs in {pairs.folder}: {len(new)} new, {there} were there already"
        show_text(cls.hidden.unique_id, text)
        shown = [saved_result(path) for path in new[-SHOWN:]]
        return io.NodeOutput(text, ui={"images": shown, "text": (text,)})


@dataclass(frozen=True)
class Item:
    """One image to make: the `index`-th, from 1, of a mask."""

    mask: Path
    stem: str
    index: int

    @property
    def name(self) -> str:
        # Always with a number: a mask called a_2 must not meet the second image of mask a.
        return f"{self.stem}_{self.index}"

    def seed(self, seed: int) -> int:
        """Of its own, whatever other masks there are: from the stem and the index alone."""
        digest = hashlib.sha256(f"{seed}/{self.index}/{self.stem}".encode()).digest()
        return int.from_bytes(digest[:8], "big")


def plan(masks: Mapping[str, Path], images_per_mask: int) -> list[Item]:
    return [
        Item(path, stem, index)
        for stem, path in masks.items()
        for index in range(1, images_per_mask + 1)
    ]


@dataclass(frozen=True)
class Work:
    """What all images of a run have in common; size is (width, height), 0 for the mask's own."""

    pairs: PairFolder
    sources: Sources
    vae: Any
    size: tuple[int, int]
    settings: Settings
    prompt: str

    def run(self, planned: list[Item]) -> Iterator[Path]:
        """Make and save what is not there yet; gives the path of each new image.

        Raises ValueError naming the mask that does not fit, or an image without its mask.
        """
        missing = []
        for item in planned:
            if self.pairs.has(item.name):
                self.pairs.list(item.name, self.prompt)
            else:
                missing.append(item)
        if not missing:
            return
        total = len(missing) * self.settings.steps
        show = latent_preview.prepare_callback(self.sources.model, total)
        for number, item in enumerate(missing):
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress = _shifted(show, number * self.settings.steps, total)
            mask = read_mask(item.mask)
            try:
                image = self._image(item, mask, progress)
            except ValueError as error:
                raise ValueError(f"{item.mask}: {error}") from error
            self.pairs.write(item.name, image, mask, self.prompt)
            yield self.pairs.image(item.name)

    def _image(self, item: Item, mask: Tensor, progress: Callback) -> Tensor:
        """(H, W, 3) in [0, 1]."""
        settings = replace(self.settings, seed=item.seed(self.settings.seed))
        latents = sample_masks(self.sources, mask, self.size, settings, progress)
        return self.vae.decode(latents)[0]


def _shifted(show: Callback, done: int, total: int) -> Callback:
    """Progress of one image as part of all: `done` steps came before it."""
    return lambda step, x0, x, _steps: show(done + step, x0, x, total)
