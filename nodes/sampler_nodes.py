"""The node that samples a latent for each mask."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..common.pixel_budget import LARGEST_SAMPLED
from ..models.dhi import DOWNSCALE
from .conditioning import Conditioning
from .sampling import (
    PUBLISHED_SCHEDULER,
    Settings,
    Sources,
    sample_masks,
    sampler_names,
    scheduler_names,
)
from .schema import checked, node_schema, seed_input


class SiameseSampler(io.ComfyNode):
    """Samples one latent for each mask, as large as the mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseSampler",
            display_name="Siamese Sampler",
            description=(
                "Samples an image for each mask, with the published settings as defaults: DDIM, "
                "50 steps, CFG 9. Decode the latents with 'VAE Decode'."
            ),
            search_aliases=["siamese", "mask to image", "ksampler", "dataset"],
            inputs=[*model_inputs(), _mask_input(), *sampling_inputs()],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT", tooltip="One latent for each mask, in the same order."
                )
            ],
        )

    @classmethod
    @checked
    def execute(  # noqa: PLR0913 - one argument for each input of the node
        cls,
        *,
        model: Any,
        positive: Conditioning,
        negative: Conditioning,
        control_net: Any,
        mask: Tensor,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        width: int = 0,
        height: int = 0,
    ) -> io.NodeOutput:
        sources = Sources(model, positive, negative, control_net)
        settings = Settings(steps, cfg, sampler_name, scheduler, seed)
        return io.NodeOutput({"samples": sample_masks(sources, mask, (width, height), settings)})


def model_inputs() -> list[io.Input]:
    """The connections that `Sources` holds."""
    return [
        io.Model.Input("model", tooltip="MODEL of a Siamese loader."),
        io.Conditioning.Input(
            "positive", tooltip="What the image should show: the prompt used in training."
        ),
        io.Conditioning.Input(
            "negative", tooltip="What it should not show; an empty prompt, as published."
        ),
        io.ControlNet.Input("control_net", tooltip="CONTROL_NET of a Siamese loader."),
    ]


def _mask_input() -> io.Input:
    return io.Mask.Input(
        "mask",
        tooltip="The lesion is white; values above 0.5 count as white. Each mask makes one image.",
    )


def sampling_inputs() -> list[io.Input]:
    """Seed, `Settings` and size."""
    size = {"default": 0, "min": 0, "max": LARGEST_SAMPLED, "step": DOWNSCALE, "optional": True}
    return [
        seed_input("Same seed, same image. Another seed makes another image of the same mask."),
        io.Int.Input(
            "steps", default=50, min=1, max=1000,
            tooltip="Denoising steps; 50 as published. Fewer steps are faster but coarser. With "
            "ddim_published, a number that does not divide 1000 may make more steps, as published: "
            "30 makes 31.",
        ),
        io.Float.Input(
            "cfg", default=9.0, min=0.0, max=100.0, step=0.1, round=0.01,
            tooltip="Classifier-free guidance: how strongly the prompt counts; 9 as published. "
            "1 takes half the time.",
        ),
        io.Combo.Input(
            "sampler_name", options=sampler_names(), default="ddim",
            tooltip="ddim is the published sampler.",
        ),
        io.Combo.Input(
            "scheduler", options=scheduler_names(), default=PUBLISHED_SCHEDULER,
            tooltip="ddim_published with sampler ddim gives the published noise levels exactly; "
            "the others are ComfyUI's.",
        ),
        io.Int.Input(
            "width", **size,
            tooltip="Width of the image in pixels; 0 for the mask's width. The mask is "
            "stretched to it by nearest neighbour.",
        ),
        io.Int.Input(
            "height", **size,
            tooltip="Height of the image in pixels; 0 for the mask's height. The mask is "
            "stretched to it by nearest neighbour.",
        ),
    ]  # fmt: skip
