"""Base models of the real layout with almost no weights, for tests that train many times."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from siamese_diffusion.models.kinds import UNET
from siamese_diffusion.models.weights import StateDict, read_weights, write_weights
from siamese_diffusion.tools.train_autoencoder import ASSET
from siamese_diffusion.training.method.ldm_keys import UNetShape, unet_to_ldm
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

SD1 = UNetShape((32, 64), (True, True), 1, 768, False)
SD2 = UNetShape((64, 128), (True, False), 1, 1024, True)
VOCABULARY = 49408


def write_tiny_base(path: Path, shape: UNetShape = SD1) -> Path:
    """A checkpoint laid out as those of Stable Diffusion 1.x or 2.x."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**shape.diffusers_config()).state_dict()
        text = clip() if shape.context_dim == 768 else open_clip()
    tensors = {UNET + key: value for key, value in unet_to_ldm(unet, shape).items()}
    write_weights(path, {**tensors, **text, **read_weights(ASSET).tensors}, {})
    return path


def clip() -> StateDict:
    """One layer of CLIP-L."""
    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=768, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=12, hidden_act="quick_gelu",
    )  # fmt: skip
    weights = CLIPTextModel(config).state_dict()
    prefix = "cond_stage_model.transformer.text_model."  # which transformers 5 has no more
    return {prefix + k.removeprefix("text_model."): v.half() for k, v in weights.items()}


def open_clip() -> StateDict:
    """One layer of OpenCLIP ViT-H, in OpenCLIP's own names."""
    width, inner = 1024, 64
    shapes = {
        "token_embedding.weight": (VOCABULARY, width),
        "positional_embedding": (77, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, width),
        "logit_scale": (),
    }
    block = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (inner, width),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (width, inner),
        "mlp.c_proj.bias": (width,),
    }
    shapes |= {f"transformer.resblocks.0.{name}": shape for name, shape in block.items()}
    return {f"cond_stage_model.model.{name}": random(shape) for name, shape in shapes.items()}


def random(shape: tuple[int, ...]) -> Tensor:
    return (torch.randn(shape) * 0.02).half()
