"""What a weight file is, told by its keys and shapes, never by its name.

Keys are always those of the published ControlLDM (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

CONTROL = "control_model."
UNET = "model.diffusion_model."
DECODER = (UNET + "output_blocks.", UNET + "out.")
LORA_DOWN = ".lora_down."  # in the names of a low-rank bundle's factors (low_rank.py)
DHI_KEY = "input_hint_block.0.initial_conv.weight"
HINT_CHANNELS = (3, 4, 6)  # an image; or image and mask, which has one channel or three


class Kind(Enum):
    """What a weight file is; the value is its name in messages."""

    MERGED = "a merged Siamese-Diffusion checkpoint"
    BUNDLE = "a Siamese bundle"
    LOW_RANK = "a low-rank Siamese bundle"
    CONTROL_ONLY = "the ControlNet part of a Siamese-Diffusion model"
    PLAIN_CONTROLNET = "a plain ControlNet (no Dense Hint Input)"
    DIFFUSERS_CONTROLNET = "a ControlNet in diffusers layout"
    SD1 = "a Stable Diffusion 1.x checkpoint without Siamese weights"
    SD2 = "a Stable Diffusion 2.x checkpoint without Siamese weights"
    SDXL = "an SDXL checkpoint"
    LORA = "a LoRA"
    DIFFUSERS_UNET = "a UNet in diffusers layout"
    UNKNOWN = "not a Stable Diffusion weight file"


SIAMESE_KINDS = (Kind.MERGED, Kind.BUNDLE, Kind.LOW_RANK, Kind.CONTROL_ONLY)
USED_KINDS = (*SIAMESE_KINDS, Kind.SD1, Kind.SD2)

ADVICE = {
    Kind.MERGED: "Load it with the node 'Siamese Checkpoint Loader'.",
    Kind.BUNDLE: "Load it beside its base checkpoint with the node 'Siamese Bundle Loader'.",
    Kind.LOW_RANK: "Load it beside its base checkpoint with the node 'Siamese Bundle Loader'.",
    Kind.CONTROL_ONLY: "Load it beside its base checkpoint with the node 'Siamese Bundle Loader'.",
    Kind.PLAIN_CONTROLNET: "Load it with ComfyUI's own 'Load ControlNet Model' node.",
    Kind.DIFFUSERS_CONTROLNET: "Load it with ComfyUI's own 'Load ControlNet Model' node.",
    Kind.SD1: "Load it with ComfyUI's 'Load Checkpoint' node, and add a Siamese bundle to it.",
    Kind.SD2: "Load it with ComfyUI's 'Load Checkpoint' node, and add a Siamese bundle to it.",
    Kind.SDXL: "Siamese-Diffusion works with Stable Diffusion 1.x and 2.x only, see docs/sdxl.md.",
    Kind.LORA: "Load it with ComfyUI's 'Load LoRA' node.",
    Kind.DIFFUSERS_UNET: "Use the model's single-file checkpoint; sd-scripts' "
    "tools/convert_diffusers20_original_sd.py makes one.",
    Kind.UNKNOWN: "Choose a file written by train_siamese.py, or the published checkpoint.",
}


def identify(shapes: Mapping[str, tuple[int, ...]]) -> Kind:
    """The kind of a file, from its keys and shapes."""
    keys = shapes.keys()
    prefixes = {key.split(".", 1)[0] for key in keys}
    siamese = CONTROL + DHI_KEY in keys
    whole_unet = UNET + "input_blocks.0.0.weight" in keys
    if siamese and whole_unet:
        return Kind.MERGED
    if siamese and any(LORA_DOWN in key for key in keys):
        return Kind.LOW_RANK
    if siamese and UNET + "out.2.weight" in keys:
        return Kind.BUNDLE
    if siamese or DHI_KEY in keys:
        return Kind.CONTROL_ONLY
    if "controlnet_cond_embedding" in prefixes:
        return Kind.DIFFUSERS_CONTROLNET
    if any(key.endswith("input_hint_block.0.weight") for key in keys):
        return Kind.PLAIN_CONTROLNET
    if "conditioner" in prefixes:
        return Kind.SDXL
    if any("lora_" in key for key in keys):
        return Kind.LORA
    if whole_unet:
        context = shapes.get(UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
        return Kind.SD2 if context is not None and context[-1:] == (1024,) else Kind.SD1
    if {"down_blocks", "up_blocks"} <= prefixes:
        return Kind.DIFFUSERS_UNET
    return Kind.UNKNOWN
