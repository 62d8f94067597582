"""Nodes that make new masks."""

from __future__ import annotations

import hashlib

import torch
from comfy_api.latest import io
from torch import Tensor

from ..models.edges import soft_edge
from ..models.shapes import Changes, augment, random_mask
from .hints import binary_mask
from .limits import check_pixels
from .progress import with_progress
from .schema import checked, node_schema, seed_input

AUGMENTED_TOOLTIP = (
    "The new masks, those of the first mask first, each as large as the one it comes from."
)


def generator(seed: int) -> torch.Generator:
    """A random generator on the CPU: the same seed gives the same masks on every machine."""
    return torch.Generator().manual_seed(seed)


class SiameseAugmentMask(io.ComfyNode):
    """Masks -> randomly changed copies of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseAugmentMask",
            display_name="Siamese Augment Mask",
            description=(
                "Makes new masks from existing ones by random flips, rotation, scaling and elastic "
                "deformation. They stay black and white."
            ),
            search_aliases=["siamese", "augmentation", "elastic", "flip", "rotate", "mask"],
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="The lesion is white; values above 0.5 count as white. Each mask is "
                    "changed differently.",
                ),
                seed_input("Same seed, same changes."),
                io.Int.Input(
                    "variants", default=1, min=1, max=1000,
                    tooltip="How many new masks to make of each mask.",
                ),
                io.Boolean.Input("flip", default=True, tooltip="Flip half of them left to right."),
                io.Float.Input(
                    "rotation", default=20.0, min=0.0, max=180.0, step=1.0,
                    tooltip="Largest rotation in degrees, in either direction, about the centre.",
                ),
                io.Float.Input(
                    "scale", default=0.2, min=0.0, max=0.9, step=0.01,
                    tooltip="Largest change in size: 0.2 scales by a factor of 0.8 to 1.2.",
                ),
                io.Float.Input(
                    "elastic", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="Strength of the elastic deformation: 0 for none, 1 for strong.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip=AUGMENTED_TOOLTIP)],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, *, mask: Tensor, seed: int, variants: int, **changes: float) -> io.NodeOutput:
        how = Changes(**changes)  # type: ignore[arg-type]  # one of them is a bool
        masks = binary_mask(mask).cpu()
        count, height, width = masks.shape
        check_pixels(count * variants, width, height, "masks", "Lower variants.")
        sources = [(item, generator(_seed_of(item, seed))) for item in masks]
        wanted = [each for each in sources for _ in range(variants)]
        made = [augment(item, how, source) for item, source in with_progress(wanted)]
        return io.NodeOutput(torch.stack(made))


def _seed_of(mask: Tensor, seed: int) -> int:
    """A seed for this mask: ComfyUI runs a list mask by mask, with one seed for all."""
    digest = hashlib.sha256(f"{seed}/{tuple(mask.shape)}/".encode() + mask.numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "big")


class SiameseSoftenMask(io.ComfyNode):
    """Masks -> the same with a soft edge around the white."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseSoftenMask",
            display_name="Siamese Soften Mask",
            description=(
                "Adds a soft edge around a mask: white stays white, and falls to black outside it. "
                "For 'Set Latent Noise Mask' and 'ImageCompositeMasked', to paint a lesion into an "
                "image whose background stays as it is."
            ),
            search_aliases=["siamese", "inpaint", "feather", "blur mask", "grow mask", "blend"],
            inputs=[
                io.Mask.Input(
                    "mask", tooltip="The lesion is white; values above 0.5 count as white."
                ),
                io.Int.Input(
                    "edge", default=16, min=0, max=512,
                    tooltip="Width of the edge in pixels, outside the lesion; 0 for none.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask",
                    tooltip="1 inside the lesion, 0 beyond the edge, and between them in it.",
                )
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, mask: Tensor, edge: int) -> io.NodeOutput:
        return io.NodeOutput(soft_edge(binary_mask(mask)[:, None], edge)[:, 0])


class SiameseRandomMask(io.ComfyNode):
    """Seed -> masks with lesion-like shapes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        size = {"default": 384, "min": 8, "max": 4096, "step": 8}
        share = {"min": 0.1, "max": 90.0, "step": 0.1}
        return node_schema(
            node_id="SiameseRandomMask",
            display_name="Siamese Random Mask",
            description="Draws masks with random rounded shapes that look like lesions.",
            search_aliases=["siamese", "shape", "blob", "synthetic mask", "lesion"],
            inputs=[
                seed_input("Same seed, same masks."),
                io.Int.Input("width", **size, tooltip="Width in pixels; 384 as published."),
                io.Int.Input("height", **size, tooltip="Height in pixels; 384 as published."),
                io.Int.Input(
                    "count", default=1, min=1, max=1000, tooltip="How many masks, as one batch."
                ),
                io.Int.Input(
                    "lesions", default=1, min=1, max=20,
                    tooltip="Number of shapes in each mask. They may overlap.",
                ),
                io.Float.Input(
                    "smallest", default=3.0, **share,
                    tooltip="Area of the smallest shape, in percent of the image.",
                ),
                io.Float.Input(
                    "largest", default=15.0, **share,
                    tooltip="Area of the largest shape, in percent of the image. Up to about "
                    "20 % of a square image, shapes never touch the border.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="Black and white, lesions white.")
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls,
        *,
        seed: int,
        width: int,
        height: int,
        count: int,
        lesions: int,
        smallest: float,
        largest: float,
    ) -> io.NodeOutput:
        if smallest > largest:
            raise ValueError(f"smallest is {smallest:g} % and largest {largest:g} %. Swap them.")
        check_pixels(count, width, height, "masks", "Lower count, width or height.")
        source = generator(seed)
        area = (smallest / 100, largest / 100)
        drawn = with_progress(range(count))
        masks = [random_mask(width, height, lesions, area, source) for _ in drawn]
        return io.NodeOutput(torch.stack(masks))
