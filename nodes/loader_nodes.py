"""Nodes that load Siamese-Diffusion weights."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sd
import folder_paths
from comfy_api.latest import io

from ..models.kinds import UNET, Kind
from ..models.low_rank import expanded
from ..models.weights import WeightsError, check_keys, first_line, read_weights, without_prefix
from .control import load_control
from .decoder import check_fits, unet_tensors, unpatched_tensors, with_decoder
from .schema import ADVANCED, checked, file_fingerprint, file_input, file_path, node_schema

CONTROL_TOOLTIP = (
    "The ControlNet that turns masks into guidance. Connect it to 'Siamese Sampler' or "
    "'Siamese Apply Mask'."
)


class SiameseCheckpointLoader(io.ComfyNode):
    """Merged checkpoint -> MODEL, CLIP, VAE, CONTROL_NET."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseCheckpointLoader",
            display_name="Siamese Checkpoint Loader",
            description=(
                "Loads a merged Siamese-Diffusion checkpoint: a whole Stable Diffusion model with "
                "its Siamese ControlNet, such as the published merged_pytorch_model.pth."
            ),
            search_aliases=["siamese", "mask to image", "load checkpoint"],
            inputs=[
                file_input(
                    "ckpt_name",
                    "checkpoints",
                    "A merged checkpoint in models/checkpoints. Weights written by "
                    "train_siamese.py are a bundle: load them with 'Siamese Bundle Loader'.",
                )
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL", tooltip="The UNet, with the trained decoder."
                ),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder for prompts."),
                io.Vae.Output(display_name="VAE", tooltip="Turns latents into images and back."),
                io.ControlNet.Output(display_name="CONTROL_NET", tooltip=CONTROL_TOOLTIP),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str) -> str:
        return file_fingerprint("checkpoints", ckpt_name)

    @classmethod
    @checked
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        weights = read_weights(file_path("checkpoints", ckpt_name), expect=[Kind.MERGED])
        check_fits(weights, without_prefix(weights.tensors, UNET))
        control = load_control(weights)
        model, clip, vae = _load_base(weights.base(), str(weights.path))
        return io.NodeOutput(model, clip, vae, control)


def _load_base(state_dict: dict[str, Any], what: str) -> tuple[Any, Any, Any]:
    """ComfyUI's MODEL, CLIP and VAE of a plain checkpoint's tensors.

    Raises WeightsError when ComfyUI does not know the model, fails on missing tensors, or does not
    use all of its UNet.
    """
    unet = without_prefix(state_dict, UNET)
    try:
        loaded = comfy.sd.load_state_dict_guess_config(
            state_dict, embedding_directory=folder_paths.get_folder_paths("embeddings")
        )
    except (LookupError, RuntimeError) as error:
        if _out_of_memory(error):
            raise  # a RuntimeError too, but not the file's
        raise WeightsError(
            f"{what}: the Stable Diffusion model in it is incomplete; ComfyUI fails to load it "
            f"({type(error).__name__}: {first_line(error)}). Copy, download or merge it again."
        ) from error
    if loaded is None or loaded[0] is None:
        raise WeightsError(f"{what}: ComfyUI does not recognise the Stable Diffusion model in it.")
    model, clip, vae, _ = loaded
    check_keys(unet, unet_tensors(model), f"{what}: UNet")
    return model, clip, vae


def _out_of_memory(error: Exception) -> bool:
    """As ComfyUI itself knows it: newer versions know the errors of more devices than CUDA's."""
    management = comfy.model_management
    if hasattr(management, "is_oom"):
        return bool(management.is_oom(error))
    return isinstance(error, management.OOM_EXCEPTION)


class SiameseBundleLoader(io.ComfyNode):
    """MODEL + bundle -> MODEL with the trained decoder, CONTROL_NET."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="SiameseBundleLoader",
            display_name="Siamese Bundle Loader",
            description=(
                "Adds trained Siamese-Diffusion weights to the base checkpoint that they were "
                "trained on. The result equals the merged checkpoint."
            ),
            search_aliases=["siamese", "mask to image", "load controlnet"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base checkpoint's MODEL, from 'Load Checkpoint'. It is not "
                    "changed; the output is a copy with the trained decoder.",
                ),
                file_input(
                    "bundle_name",
                    "controlnet",
                    "A bundle written by train_siamese.py, in models/controlnet. A file with the "
                    "ControlNet alone works too, without the trained decoder.",
                ),
                io.Float.Input(
                    "decoder_strength", default=1.0, min=0.0, max=1.0, step=0.01, optional=True,
                    **ADVANCED,
                    tooltip="How much of the trained decoder to use: 1 is the trained decoder, "
                    "0 the base model's.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL", tooltip="The base model with the trained decoder."
                ),
                io.ControlNet.Output(display_name="CONTROL_NET", tooltip=CONTROL_TOOLTIP),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, bundle_name: str, **_others: Any) -> str:
        return file_fingerprint("controlnet", bundle_name)

    @classmethod
    @checked
    def execute(cls, model: Any, bundle_name: str, decoder_strength: float = 1.0) -> io.NodeOutput:
        weights = read_weights(
            file_path("controlnet", bundle_name),
            expect=[Kind.BUNDLE, Kind.LOW_RANK, Kind.CONTROL_ONLY],
        )
        weights = expanded(weights, unpatched_tensors(model))
        return io.NodeOutput(with_decoder(model, weights, decoder_strength), load_control(weights))
