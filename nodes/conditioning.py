"""Nodes that put masks into the conditioning."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

import nodes as host_nodes  # ComfyUI's own, not this package

from .control import SiameseControl
from .masks import mask_hint
from .sampling import Conditioning
from .schema import node_schema


def apply_mask(
    positive: Conditioning,
    negative: Conditioning,
    control_net: Any,
    mask: Tensor,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
) -> tuple[Conditioning, Conditioning]:
    """Both conditionings with the mask as their control; earlier ControlNets in them are kept.

    Raises ValueError for a ControlNet that is not Siamese or a tensor that is not a mask.
    """
    if not isinstance(control_net, SiameseControl):
        raise ValueError(
            "The connected ControlNet is not a Siamese one: it takes images, not masks. Connect "
            "CONTROL_NET of 'Siamese Bundle Loader' or 'Siamese Checkpoint Loader', or use "
            "ComfyUI's 'Apply ControlNet' node for this one."
        )
    image = mask_hint(mask, control_net.hint_channels).movedim(1, -1)  # (B, H, W, C)
    return host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        positive, negative, control_net, image, strength, start_percent, end_percent
    )


class SiameseApplyMask(io.ComfyNode):
    """Puts a mask into positive and negative conditioning, for the core samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        percent = {"min": 0.0, "max": 1.0, "step": 0.001}
        return node_schema(
            node_id="SiameseApplyMask",
            display_name="Siamese Apply Mask",
            description=(
                "Guides sampling by a mask, for use with KSampler and other samplers. "
                "'Siamese Sampler' does this itself."
            ),
            search_aliases=["siamese", "apply controlnet", "mask to image"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the image should show."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.ControlNet.Input("control_net", tooltip="From a Siamese loader."),
                io.Mask.Input(
                    "mask",
                    tooltip="White is the lesion. Values above one half count as white. One mask "
                    "for all latents or one for each; stretched to the latent's size by nearest "
                    "neighbour, never cropped or smoothed.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=10.0, step=0.01,
                    tooltip="Weight of the guidance: 1 as trained, 0 none.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, **percent,
                    tooltip="Where in sampling the guidance starts: 0 is the first step.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, **percent,
                    tooltip="Where in sampling the guidance ends: 1 is the last step.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="positive, guided by the mask."
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="negative, guided by the mask too, as published.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(*apply_mask(**inputs))
