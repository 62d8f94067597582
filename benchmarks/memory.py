"""Memory of a training step for cards of 8, 12 and 24 GB, counted without a GPU.

All tensors of a step are PyTorch's FakeTensors, which have a size and no values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..models.recipe import RECIPES
from ..training.method.ldm_keys import UNetShape
from ..training.method.low_rank import make_low_rank
from ..training.method.networks import SiameseNetworks, new_controlnet
from ..training.method.noise_schedule import NoiseSchedule
from ..training.method.objective import Objective
from .measure import machine, peak_memory
from .report import Result
from .workload import Scale, random_batch

GIB = 2**30
# Bytes a parameter: AdamW's two float32; bitsandbytes' two bytes, with two float32 for each 256.
STATE = {"AdamW": 8.0, "AdamW8bit": 2 + 2 * 4 / 256}
# For a card: --train_batch_size, --network_dim (0: whole weights), --optimizer_type.
SETTINGS: Mapping[str, tuple[int, int, str]] = {
    "8 GB": (2, 64, "AdamW8bit"),
    "12 GB": (1, 0, "AdamW8bit"),
    "12 GB, larger batch": (6, 64, "AdamW"),
    "24 GB": (6, 0, "AdamW8bit"),
    "24 GB, AdamW": (4, 0, "AdamW"),
}
COLUMNS = ("card", "flags", "trained", "weights", "optimizer", "a step in all")


def measure_memory(scale: Scale) -> Result:
    """With bf16 and gradient checkpointing, at the scale's size; its batch is not used."""
    raw = {card: count_step(scale, *settings) for card, settings in SETTINGS.items()}
    rows = [
        (
            card,
            _flags(*SETTINGS[card]),
            f"{found['trained'] / 1e6:.0f} M",
            *(f"{found[part] / GIB:.1f} GiB" for part in ("weights", "optimizer")),
            f"**{found['peak'] / GIB:.1f} GiB**",
        )
        for card, found in raw.items()
    ]
    title = f"Memory of a step, counted: {scale.name}, {scale.pixels} px"
    return Result("memory", title, machine(), rows, raw, columns=COLUMNS)


def _flags(batch: int, network_dim: int, optimizer: str) -> str:
    low_rank = f" --network_dim {network_dim}" if network_dim else ""
    return (
        "`--mixed_precision bf16 --gradient_checkpointing "
        f"--train_batch_size {batch} --optimizer_type {optimizer}{low_rank}`"
    )


def count_step(scale: Scale, batch: int, network_dim: int, optimizer: str) -> dict[str, float]:
    """Bytes of weights, optimizer, and of all tensors at the peak of a step; numbers trained."""
    # Without the augmentation, which begins when the other branches' memory is free.
    given = random_batch(replace(scale, batch=batch), 0)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    nets = fake_networks(scale.shape, network_dim, mode)
    trained = sum(p.numel() for p in nets.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in nets.parameters())
    state = trained * STATE[optimizer]
    with mode:
        objective = Objective(nets, NoiseSchedule(), RECIPES["published"], max_steps=3)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                objective.losses(given, 0, _backward)

        peak = peak_memory(nets, step)
    total = weights + state + peak
    return {"trained": trained, "weights": weights, "optimizer": state, "peak": total}


def _backward(loss: Tensor) -> None:
    loss.sum().backward()


def fake_networks(shape: UNetShape, network_dim: int, mode: FakeTensorMode) -> SiameseNetworks:
    """Networks without values, as --mixed_precision bf16 has them: what is frozen is halved."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**shape.diffusers_config())
        nets = SiameseNetworks(unet, new_controlnet(unet, 3))
        if network_dim:
            make_low_rank(nets, network_dim, network_dim)
    with mode:
        for module in nets.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                dtype = torch.float32 if weight.requires_grad else torch.bfloat16
                fake = nn.Parameter(torch.empty(weight.shape, dtype=dtype), weight.requires_grad)
                setattr(module, name, fake)
    nets.unet.enable_gradient_checkpointing()
    nets.controlnet.enable_gradient_checkpointing()
    return nets.train()
