"""Nodes that show pairs, and one that drops bad ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..common.text import shortened
from .folders import input_file, input_file_fingerprint
from .hints import image_batch
from .limits import check_pixels
from .pair_scores import agreements
from .pictures import COLOURS, Pair, cell, contrast, overlay, pairs_of, sheet, side_by_side
from .progress import with_progress
from .schema import ADVANCED, checked, node_schema

NAMED = 10  # dropped pairs in the text


class SiameseOverlay(io.ComfyNode):
    """Image and mask -> the image with the mask drawn on it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseOverlay",
            display_name="Siamese Overlay",
            description=(
                "Draws a mask on an image: an outline around the lesion, and a tint over it."
            ),
            search_aliases=["siamese", "outline", "contour", "preview mask", "draw mask"],
            inputs=[
                io.Image.Input("image", tooltip="One or more images."),
                io.Mask.Input(
                    "mask",
                    tooltip="The mask of each image, or one for all; stretched to the image by "
                    "nearest neighbour.",
                ),
                io.Combo.Input(
                    "colour", options=list(COLOURS), default="green",
                    tooltip="Colour of outline and tint.",
                ),
                io.Int.Input(
                    "outline", default=2, min=0, max=50,
                    tooltip="Width of the outline in pixels, just outside the lesion; 0 for none.",
                ),
                io.Float.Input(
                    "tint", default=0.15, min=0.0, max=1.0, step=0.01,
                    tooltip="How strongly the lesion is coloured: 0 not at all, 1 covers it.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The images with the mask drawn on them."
                )
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, image: Tensor, mask: Tensor, colour: str, outline: int, tint: float
    ) -> io.NodeOutput:
        pairs = with_progress(pairs_of([image], [mask]))
        return io.NodeOutput(torch.cat([overlay(pair, colour, outline, tint) for pair in pairs]))


class SiameseContactSheet(io.ComfyNode):
    """Images, with or without masks -> one image that shows them all."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseContactSheet",
            display_name="Siamese Contact Sheet",
            description="Shows all images of a batch or list in one image, each beside its mask.",
            search_aliases=["siamese", "grid", "montage", "image grid", "overview"],
            inputs=[
                io.Image.Input("image", tooltip="Images of any size: batches, lists or both."),
                io.Int.Input(
                    "columns", default=0, min=0, max=100,
                    tooltip="Images per row; 0 makes the sheet about square.",
                ),
                io.Int.Input(
                    "cell_size", default=192, min=16, max=1024,
                    tooltip="Longer side of each image on the sheet, in pixels.",
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="The mask of each image, or one for all; shown to the left of its "
                    "image.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The contact sheet.")],
            is_input_list=True,
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls,
        image: list[Tensor],
        columns: list[int],
        cell_size: list[int],
        mask: list[Tensor] | None = None,
    ) -> io.NodeOutput:
        size = cell_size[0]
        images = [one for batch in image for one in image_batch(batch).split(1)]
        if not images:
            raise ValueError("No images to show: the list is empty. Connect another.")
        check_pixels(
            len(images), 2 * size if mask else size, size, "cells", "Lower cell_size, or show less."
        )
        if mask:
            cells = [side_by_side(pair, size) for pair in with_progress(pairs_of(image, mask))]
        else:
            cells = [cell(one, size) for one in with_progress(images)]
        wide = cells[0].shape[1] / size
        across = columns[0] or max(1, round(math.sqrt(len(cells) / wide)))
        return io.NodeOutput(sheet(cells, min(across, len(cells))))


class SiameseFilterPairs(io.ComfyNode):
    """Pairs -> those whose image shows a lesion where the mask is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseFilterPairs",
            display_name="Siamese Filter Pairs",
            description=(
                "Drops pairs whose image does not show the lesion: its mean colour inside the mask "
                "hardly differs from that of a ring around it."
            ),
            search_aliases=["siamese", "quality", "reject", "select images", "contrast"],
            inputs=[
                io.Image.Input("image", tooltip="Images: batches, lists or both."),
                io.Mask.Input("mask", tooltip="The mask of each image, or one for all."),
                io.Float.Input(
                    "minimum", default=0.03, min=0.0, max=1.0, step=0.001,
                    tooltip="Pairs with less contrast are dropped. Contrast is the mean over red, "
                    "green and blue of the difference, 0 to 1, between the mean colour inside the "
                    "mask and that of a ring around it, 5 % of the image wide.",
                ),
                io.String.Input(
                    "stem", default="pair",
                    tooltip="Names of the pairs, from 'Siamese Load Mask Folder'.",
                ),
                io.String.Input(
                    "scores", default="", optional=True, **ADVANCED,
                    tooltip="A second measure: a file in ComfyUI's input folder that "
                    "'siamese-evaluate --scores' wrote. Empty: contrast alone.",
                ),
                io.Float.Input(
                    "lowest", default=0.5, min=0.0, max=1.0, step=0.01, optional=True, **ADVANCED,
                    tooltip="With scores: pairs with less agreement are dropped. Agreement is the "
                    "Dice, 0 to 1, between the mask and what segmenters trained on real pairs see "
                    "in the image.",
                ),
                io.Float.Input(
                    "highest", default=1.0, min=0.0, max=1.0, step=0.01, optional=True, **ADVANCED,
                    tooltip="With scores: pairs with more agreement are dropped. The easiest pairs "
                    "teach a segmenter least.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", is_output_list=True, tooltip="The images that were kept."
                ),
                io.Mask.Output(
                    display_name="mask", is_output_list=True, tooltip="Their masks."
                ),
                io.String.Output(
                    display_name="stem", is_output_list=True, tooltip="Their names."
                ),
                io.String.Output(
                    display_name="text", tooltip="How many were dropped; also shown on the node."
                ),
            ],
            is_input_list=True,
            # For its text: the host tells it again on a cached run for output nodes alone.
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(
        cls, scores: Sequence[str | None] | None = None, **_others: Any
    ) -> str | float:
        return input_file_fingerprint(scores[0] if scores else "")

    @classmethod
    @checked
    def execute(
        cls,
        image: list[Tensor],
        mask: list[Tensor],
        minimum: list[float],
        stem: list[str],
        scores: Sequence[str] = ("",),
        lowest: Sequence[float] = (0.5,),
        highest: Sequence[float] = (1.0,),
    ) -> io.NodeOutput:
        pairs = pairs_of(image, mask, finite=False)  # those that are not are dropped
        stems = _stem_of_each(stem, [len(batch) for batch in image])
        found = agreements(input_file(scores[0]), stems) if scores[0].strip() else None
        values = [contrast(pair) for pair in with_progress(pairs)]
        low, high = lowest[0], highest[0]
        measures = [Measure(f"contrast below {minimum[0]:g}", values, minimum[0], math.inf)]
        if found:
            measures.append(Measure(f"agreement outside {low:g} to {high:g}", found, low, high))
        kept = [all(flags) for flags in zip(*(each.kept for each in measures), strict=True)]
        text = _report(stems, measures, sum(kept))
        if not any(kept):
            raise ValueError(
                f"{text}. Nothing is left: keep more by 'minimum', 'lowest' and 'highest', or look "
                "at the images."
            )
        images, masks = _as_comfy([*compress(pairs, kept)])
        stems = [*compress(stems, kept)]
        return io.NodeOutput(images, masks, stems, text, ui=ui.PreviewText(text))


def _stem_of_each(stems: Sequence[str], batches: Sequence[int]) -> list[str]:
    """The stem of each image, from one stem for all, one for each batch, or one for each image.

    Raises ValueError for any other number of stems.
    """
    images = sum(batches)
    if len(stems) == images:
        return list(stems)
    if len(stems) == 1:
        return [stems[0]] * images
    if len(stems) == len(batches):
        return [stem for stem, size in zip(stems, batches, strict=True) for _ in range(size)]
    raise ValueError(
        f"{len(stems)} stems for {images} images: give one stem for all images, or one for each."
    )


@dataclass(frozen=True)
class Measure:
    """What pairs are dropped for, in words; each pair's value, None where it has none; the bounds.

    A pair without a value is kept.
    """

    reason: str
    values: Sequence[float | None]
    low: float
    high: float

    @property
    def kept(self) -> list[bool]:
        return [value is None or self.low <= value <= self.high for value in self.values]


def _report(stems: Sequence[str], measures: Sequence[Measure], count: int) -> str:
    """How many pairs were kept, and by each measure how many were dropped and the first of them."""
    clauses = []
    for measure in measures:
        dropped = [
            f"{shortened(stem)} ({value:.3f})"
            for stem, value, keep in zip(stems, measure.values, measure.kept, strict=True)
            if not keep
        ]
        more = ", ..." if len(dropped) > NAMED else ""
        if dropped:
            names = ", ".join(dropped[:NAMED])
            clauses.append(f"dropped {len(dropped)} with {measure.reason}: {names}{more}")
    text = f"Kept {count} of {len(stems)} pairs, {'; '.join(clauses) or 'dropped 0'}"
    unmeasured = sum(value is None for value in measures[0].values)
    if unmeasured:
        text += f"; {unmeasured} kept unchecked, their masks are empty or full"
    return text


def _as_comfy(pairs: Sequence[Pair]) -> tuple[list[Any], list[Any]]:
    """Lists of IMAGE (1, H, W, 3) and MASK (1, H, W)."""
    return [image.movedim(1, -1) for image, _ in pairs], [mask[:, 0] for _, mask in pairs]
