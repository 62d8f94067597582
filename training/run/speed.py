"""What makes the networks faster or leaner."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from diffusers.models.attention_processor import Attention

from ..config import TrainConfig
from ..errors import ConfigError
from ..method.base_model import BaseModel
from ..method.low_rank import base_weights, make_low_rank
from ..method.networks import SiameseNetworks, new_controlnet

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def make_networks(
    config: TrainConfig, base: BaseModel, hint_channels: int, device: torch.device
) -> SiameseNetworks:
    """The networks on their device, with their settings."""
    torch.manual_seed(config.seed)  # the DHI starts random, and equal on all processes
    nets = SiameseNetworks(base.unet, new_controlnet(base.unet, hint_channels))
    if config.network_dim:
        make_low_rank(nets, config.network_dim, config.rank_alpha)
    nets.to(device)
    apply_settings(config, nets)
    return nets.train()


def make_deterministic(config: TrainConfig) -> None:
    """With --deterministic, from now on the same bits every time; without, PyTorch's own choice.

    Before the first work of a GPU, which reads the variable. Raises ConfigError for what PyTorch
    has no say in.
    """
    if config.deterministic and config.xformers:
        raise ConfigError(
            "--deterministic: not together with --xformers, whose attention is not; leave one out."
        )
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)


def choose_kernels(config: TrainConfig, sizes: Iterable[tuple[int, int]]) -> None:
    """Let a GPU round as --no_tf32 says, and try out its convolutions where all `sizes` are equal.

    The trial takes time for each new shape, and its outcome may change from run to run.
    """
    torch.backends.cuda.matmul.allow_tf32 = not config.no_tf32
    torch.backends.cudnn.allow_tf32 = not config.no_tf32
    torch.backends.cudnn.benchmark = len({*sizes}) == 1 and not config.deterministic


def check_settings(config: TrainConfig, device: torch.device) -> None:
    """Raise ConfigError for what this machine cannot do, before anything is loaded."""
    if config.xformers:
        with _xformers_explained():
            Attention(query_dim=8).set_use_memory_efficient_attention_xformers(True)
    if config.torch_compile:
        _check_compiler(device)


def apply_settings(config: TrainConfig, nets: SiameseNetworks) -> None:
    """Make the networks faster or leaner, in place. Raises ConfigError where that cannot be."""
    if config.mixed_precision in HALF:
        nets.cast_frozen(HALF[config.mixed_precision])
        for weight in base_weights(nets):
            weight.data = weight.data.to(HALF[config.mixed_precision])
    if config.gradient_checkpointing:
        nets.unet.enable_gradient_checkpointing()
        nets.controlnet.enable_gradient_checkpointing()
    if config.xformers:
        with _xformers_explained():
            nets.unet.enable_xformers_memory_efficient_attention()
            nets.controlnet.enable_xformers_memory_efficient_attention()
    if config.channels_last:
        nets.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.torch_compile:
        nets.compile_parts()


@contextmanager
def _xformers_explained() -> Iterator[None]:
    """What diffusers raises becomes a ConfigError."""
    try:
        yield
    except (ImportError, ValueError) as error:
        reason = str(error).strip(" .")
        raise ConfigError(
            f"--xformers: {reason}. Without the flag PyTorch's own attention is used."
        ) from error


def _check_compiler(device: torch.device) -> None:
    """Raise ConfigError where PyTorch would fail in the first step, with a page of its own code."""
    if device.type == "cuda":
        needed, found = "the package triton", importlib.util.find_spec("triton") is not None
    else:
        names = (os.environ.get("CXX", "g++"), "clang++")
        needed, found = "a C++ compiler", any(map(shutil.which, names))
    if not found:
        raise ConfigError(f"--torch_compile: {needed} is missing. Install it, or leave it out.")
