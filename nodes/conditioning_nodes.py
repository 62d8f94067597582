"""The node that adds a mask to the conditioning."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from .conditioning import Conditioning, Timing, apply_both, apply_hint, siamese
from .hints import THRESHOLD, mask_hint, palette_hint
from .schema import ADVANCED, checked, node_schema


class SiameseApplyMask(io.ComfyNode):
    """Adds a mask to positive and negative conditioning, for the core samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseApplyMask",
            display_name="Siamese Apply Mask",
            description=(
                "Adds a mask to the conditioning, to guide KSampler or any other sampler. "
                "'Siamese Sampler' does this by itself."
            ),
            search_aliases=["siamese", "apply controlnet", "mask to image", "image branch"],
            inputs=[*_connections(), *_timing(), *_mask_settings()],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="The positive conditioning with the mask."
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The negative conditioning, also with the mask, as published.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(  # noqa: PLR0913 - one argument for each input of the node
        cls,
        *,
        positive: Conditioning,
        negative: Conditioning,
        control_net: Any,
        mask: Tensor | None = None,
        palette: Tensor | None = None,
        image: Tensor | None = None,
        threshold: float = THRESHOLD,
        invert: bool = False,
        image_weight: float = 1.0,
        **timing: float,
    ) -> io.NodeOutput:
        channels = siamese(control_net).hint_channels
        if mask is not None and palette is None:
            hint = mask_hint(mask, channels, threshold, invert)
        elif palette is not None and mask is None:
            hint = palette_hint(palette, channels)
        else:
            raise ValueError(
                f"{'Neither' if mask is None else 'Both'} of 'mask' and 'palette' connected: "
                "connect 'mask' for weights trained on binary masks, or 'palette' for weights "
                "trained on a colour for each class."
            )
        pair = (positive, negative)
        if image is None:
            return io.NodeOutput(*apply_hint(pair, control_net, hint, Timing(**timing)))
        return io.NodeOutput(
            *apply_both(pair, control_net, hint, image, image_weight, Timing(**timing))
        )


def _connections() -> list[io.Input]:
    return [
        io.Conditioning.Input("positive", tooltip="What the image should show."),
        io.Conditioning.Input("negative", tooltip="What it should not show."),
        io.ControlNet.Input("control_net", tooltip="CONTROL_NET of a Siamese loader."),
        io.Mask.Input(
            "mask", optional=True,
            tooltip="The lesion is white; values above the threshold count as white. One mask for "
            "all latents, or one for each. It is stretched to the latent's size by nearest "
            "neighbour, never cropped or smoothed.",
        ),
        io.Image.Input(
            "palette", optional=True,
            tooltip="Instead of 'mask', for weights trained on several classes: an image that "
            "shows each class in its colour from training.",
        ),
        io.Image.Input(
            "image", optional=True,
            tooltip="Only for comparison: a real image that belongs to the mask. Sampling is then "
            "guided by the image branch, as in training.",
        ),
    ]  # fmt: skip


def _timing() -> list[io.Input]:
    percent = {"min": 0.0, "max": 1.0, "step": 0.001, **ADVANCED}
    return [
        io.Float.Input(
            "strength", default=1.0, min=0.0, max=10.0, step=0.01,
            tooltip="Strength of the guidance: 1 as in training, 0 for none.",
        ),
        io.Float.Input(
            "start_percent", default=0.0, **percent,
            tooltip="Where in sampling the guidance starts: 0 is the first step.",
        ),
        io.Float.Input(
            "end_percent", default=1.0, **percent,
            tooltip="Where in sampling the guidance ends: 1 is the last step.",
        ),
    ]  # fmt: skip


def _mask_settings() -> list[io.Input]:
    return [
        io.Float.Input(
            "threshold", default=THRESHOLD, min=0.0, max=1.0, step=0.01, optional=True, **ADVANCED,
            tooltip="Mask values above it count as white; 0.5 as published. No effect on "
            "'palette'.",
        ),
        io.Boolean.Input(
            "invert", default=False, optional=True,
            tooltip="For masks whose lesion is black. No effect on 'palette'.",
        ),
        io.Float.Input(
            "image_weight", default=1.0, min=0.0, max=1.0, step=0.01, optional=True, **ADVANCED,
            tooltip="Weight of the image branch when 'image' is connected; training raises it "
            "from 0 to 1.",
        ),
    ]  # fmt: skip
