"""Small base models that sd-scripts and the standalone host both load.

sd-scripts has the UNet's sizes as constants of its modules; `lower_sizes` makes them those of the
checkpoints here. Text encoder and autoencoder have their real sizes and random weights.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from siamese_diffusion.models.kinds import UNET
from siamese_diffusion.models.weights import write_weights
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.hosts.choose import choose_host
from siamese_diffusion.training.hosts.interface import Host
from siamese_diffusion.training.hosts.sd_scripts.library import Library
from siamese_diffusion.training.method.base_model import BaseModel
from siamese_diffusion.training.method.ldm_keys import UNetShape, unet_to_ldm
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from support.small_datasets import config

# ComfyUI takes any number of levels, but only 320 channels at the first.
SD1 = UNetShape((320,) * 4, (True, True, True, False), 1, 768, False)
SD2 = UNetShape((320,) * 4, (True, True, True, False), 1, 1024, True)


def lower_sizes(library: Library, patch: pytest.MonkeyPatch) -> None:
    """Make sd-scripts build the UNet of `SD1`."""
    patch.setattr(library.original_unet, "BLOCK_OUT_CHANNELS", SD1.channels)
    patch.setattr(library.original_unet, "LAYERS_PER_BLOCK", SD1.resnets)
    patch.setattr(library.original_unet, "LAYERS_PER_BLOCK_UP", SD1.resnets + 1)
    patch.setattr(library.model_util, "UNET_PARAMS_CHANNEL_MULT", [1, 1, 1, 1])
    patch.setattr(library.model_util, "UNET_PARAMS_NUM_RES_BLOCKS", SD1.resnets)
    patch.setattr(library.model_util, "V2_UNET_PARAMS_ATTENTION_HEAD_DIM", [5, 5, 5, 5])


def build_parts() -> dict[str, nn.Module]:
    """UNet, autoencoder and text encoder with random weights, as diffusers has them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "unet": UNet2DConditionModel(**SD1.diffusers_config()),
            "vae": build_vae(),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=49408, hidden_size=768, intermediate_size=3072,
                    num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu",
                    projection_dim=768,
                )
            ),
        }  # fmt: skip


def build_vae() -> AutoencoderKL:
    levels = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )


def write_checkpoint(path: Path, parts: dict[str, nn.Module], library: Library) -> Path:
    """The parts as a single file in half precision."""
    vae = library.model_util.convert_vae_state_dict(parts["vae"].state_dict())
    named = {
        UNET: unet_to_ldm(parts["unet"].state_dict(), SD1),
        "cond_stage_model.transformer.": parts["text_encoder"].state_dict(),
        "first_stage_model.": vae,
    }
    tensors = {prefix + key: value for prefix, part in named.items() for key, value in part.items()}
    write_weights(path, {key: value.half() for key, value in tensors.items()}, {})
    return path


def build_version_two(library: Library) -> dict[str, Tensor]:
    """Tensors of a Stable Diffusion 2.x checkpoint in half precision, named by sd-scripts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**SD2.diffusers_config()).state_dict()
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
                num_attention_heads=16, hidden_act="gelu", projection_dim=512,
            )
        )  # fmt: skip
    named = library.model_util.convert_text_encoder_state_dict_to_sd_v2(text.state_dict(), True)
    vae = library.model_util.convert_vae_state_dict(build_vae().state_dict())
    tensors = {
        **{UNET + key: value for key, value in unet_to_ldm(unet, SD2).items()},
        **{f"cond_stage_model.model.{key}": value for key, value in named.items()},
        **{f"first_stage_model.{key}": value for key, value in vae.items()},
    }
    return {key: value.half() for key, value in tensors.items()}


def make(sd_scripts: Path, folder: Path, base: Path, **flags: object) -> tuple[Host, TrainConfig]:
    options = {
        key: flags.pop(key)
        for key in list(flags)
        if key not in {item.name for item in fields(TrainConfig)}
    }
    settings = config(folder, sd_scripts=sd_scripts, host_options=options, **flags)
    object.__setattr__(settings, "pretrained_model_name_or_path", base)
    return choose_host(settings), settings


def load(sd_scripts: Path, folder: Path, base: Path, **flags: object) -> BaseModel:
    host, settings = make(sd_scripts, folder, base, **flags)
    return host.load_base_model(settings, Accelerator())
