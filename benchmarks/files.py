"""Weight files: how large each kind is in SD 1.5, and what rounding the weights changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from ..models.recipe import RECIPES
from ..training.method.bundle import bundle_tensors
from ..training.method.ldm_keys import UNetShape
from ..training.method.low_rank import make_low_rank
from ..training.method.networks import SiameseNetworks, new_controlnet
from ..training.method.noise_schedule import NoiseSchedule
from ..training.method.objective import Objective
from ..training.method.sampling import Conditions, sample
from .measure import machine
from .report import Result
from .workload import SD15, Scale, random_networks

FORMATS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RANKS = (16, 32, 64, 128)
COLUMNS = ("flags", "size in SD 1.5", "change of a sampled latent")
STEPS, CFG = 20, 9.0


def measure_files(scale: Scale, tiny: bool) -> Result:
    """Changes are those of random networks of the scale."""
    changes = measure_changes(scale, 2 if tiny else STEPS)
    shape = scale.shape if tiny else SD15
    whole = count_parameters(shape, 0)
    rows = [
        (
            f"`--save_precision {name}`",
            _size(whole * dtype.itemsize),
            f"{changes[name]:.1e}" if name in changes else "none: as trained",
        )
        for name, dtype in FORMATS.items()
    ]
    ranks = {rank: count_parameters(shape, rank) for rank in RANKS}
    rows += [(f"`--network_dim {rank}`", _size(2 * count), "") for rank, count in ranks.items()]
    title = f"Weight files: SD 1.5; changes: {scale.name}, {scale.pixels} px, {STEPS} steps, CFG 9"
    counts = {"whole": whole} | {f"rank {rank}": count for rank, count in ranks.items()}
    raw = {"changes": changes, "parameters": counts}
    return Result("files", title, machine(), rows, raw, columns=COLUMNS)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def count_parameters(shape: UNetShape, network_dim: int) -> int:
    """Values in a bundle; network_dim 0: of whole weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**shape.diffusers_config())
        nets = SiameseNetworks(unet, new_controlnet(unet, 3))
        if network_dim:
            make_low_rank(nets, network_dim, network_dim)
    return sum(tensor.numel() for tensor in bundle_tensors(nets, shape).values())


def measure_changes(scale: Scale, steps: int) -> Mapping[str, float]:
    """Norm of the change over norm of the latent, sampled with what is trained rounded."""
    nets = random_networks(scale.shape).eval()
    objective = Objective(nets, NoiseSchedule(), RECIPES["published"], max_steps=1)
    conditions = _conditions(scale)
    trained = bundle_tensors(nets, scale.shape)
    exact = {key: tensor.clone() for key, tensor in trained.items()}
    expected = sample(objective, conditions, steps, CFG)
    changes = {}
    for name, dtype in FORMATS.items():
        if dtype is not torch.float32:
            _put(trained, {key: tensor.to(dtype).float() for key, tensor in exact.items()})
            found = sample(objective, conditions, steps, CFG)
            changes[name] = float((found - expected).norm() / expected.norm())
    return changes


def _put(trained: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for key, tensor in trained.items():
        tensor.copy_(values[key])


def _conditions(scale: Scale) -> Conditions:
    values = torch.Generator().manual_seed(2)
    side = scale.pixels // 8
    mask = torch.zeros(1, 1, scale.pixels, scale.pixels)
    mask[..., : scale.pixels // 2, : scale.pixels // 2] = 1
    text = torch.randn(2, 77, scale.shape.context_dim, generator=values)
    noise = torch.randn(1, 4, side, side, generator=values)
    return Conditions(mask, text[:1], text[1:], noise)
