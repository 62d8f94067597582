"""Low-rank training (LoRA, by PEFT) of the ControlNet's copied layers and of the decoder."""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from ...models.low_rank import ALPHA, DOWN, UP
from ...models.weights import StateDict
from .networks import SiameseNetworks

# Trained whole: they are new, or so narrow that low rank would save nothing.
WHOLE = ("controlnet_", "conv_in", "conv_out")
ADAPTER = "siamese"
BASE, PEFT_DOWN, PEFT_UP = ".base_layer.", f".lora_A.{ADAPTER}.", f".lora_B.{ADAPTER}."


def make_low_rank(nets: SiameseNetworks, dim: int, alpha: float) -> None:
    """Freeze the weights of copied linear layers and convolutions, and train factors beside them.

    Each such weight becomes W + alpha / dim * up down, with up zero at first. Norms, biases, the
    Dense Hint Input and the zero convolutions are trained whole.
    """
    for network in (nets.controlnet, nets.decoder):
        layers = [
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and not _is_whole(name, network, nets)
        ]
        config = LoraConfig(r=dim, lora_alpha=alpha, target_modules=layers)
        inject_adapter_in_model(config, network, ADAPTER)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(not name.endswith(f"{BASE}weight"))


def _is_whole(name: str, network: nn.Module, nets: SiameseNetworks) -> bool:
    if network is nets.decoder:  # its parts have numbers; the last is the UNet's conv_out
        return name == "2"
    return name.startswith(WHOLE)


def base_weights(nets: SiameseNetworks) -> list[nn.Parameter]:
    """The frozen weights that factors were put beside; none of networks that are trained whole."""
    return [p for name, p in nets.named_parameters() if name.endswith(f"{BASE}weight")]


def factor_names(module: nn.Module) -> StateDict:
    """A module's state dict without what is frozen, its factors under LoRA's usual names."""
    named: StateDict = {}
    for name, tensor in module.state_dict().items():
        if not name.endswith(f"{BASE}weight"):
            new = name.replace(BASE, ".").replace(PEFT_DOWN, DOWN).replace(PEFT_UP, UP)
            named[new] = tensor
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer):
            named[name + ALPHA] = torch.tensor(float(layer.lora_alpha[ADAPTER]))
    return named
