"""Memory of one training step at Stable Diffusion 1.5's size, counted without a GPU.

Every tensor of a step is PyTorch's FakeTensor, which has a size and no values. What is alive at
once is added up. A GPU takes more: its context (about half a GiB), workspaces of convolutions,
and what the allocator does not give back.
"""

from __future__ import annotations

import argparse
import json
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models.recipe import RECIPES
from ..training.method.ldm_keys import UNetShape
from ..training.method.low_rank import make_low_rank
from ..training.method.networks import SiameseNetworks, new_controlnet
from ..training.method.noise_schedule import NoiseSchedule
from ..training.method.objective import Batch, Objective

SD15 = UNetShape((320, 640, 1280, 1280), (True, True, True, False), 2, 768, False)
RESULTS = Path(__file__).parent / "results" / "memory.json"
# bitsandbytes' 8-bit state: two bytes a parameter, and two float32 for each block of 256.
EIGHT_BIT = 2 + 2 * 4 / 256
# Flags for cards, by their size in GB: --train_batch_size, --network_dim, and whether AdamW8bit.
SETTINGS: dict[str, tuple[int, int, bool]] = {
    "8 GB: low rank": (1, 64, True),
    "12 GB: low rank, larger batch": (4, 64, True),
    "24 GB: whole weights, 8-bit AdamW": (4, 0, True),
    "24 GB: whole weights, AdamW": (1, 0, False),
}


class LiveMemory(TorchDispatchMode):
    """Within it, `now` is the size of the storages that operations have made and that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def count_step(
    batch_size: int, network_dim: int, eight_bit: bool, size: int = 384
) -> dict[str, float]:
    """GiB of weights, optimizer and the whole step at its peak: bf16, gradient checkpointing."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15.diffusers_config())
        nets = SiameseNetworks(unet, new_controlnet(unet, 3))
        if network_dim:
            make_low_rank(nets, network_dim, network_dim)
    with FakeTensorMode():
        _make_fake(nets)
        nets.unet.enable_gradient_checkpointing()
        nets.controlnet.enable_gradient_checkpointing()
        nets.train()
        trained = [p for p in nets.parameters() if p.requires_grad]
        weights = sum(p.numel() * p.element_size() for p in nets.parameters())
        optimizer = sum(p.numel() for p in trained) * (EIGHT_BIT if eight_bit else 8)
        objective = Objective(nets, NoiseSchedule(), RECIPES["published"], max_steps=3)
        batch = _batch(batch_size, size)

        def backpropagate(loss: torch.Tensor) -> None:
            loss.sum().backward()

        with LiveMemory() as memory, torch.autocast("cpu", torch.bfloat16):
            objective.losses(batch, 0, backpropagate)
    gib = 2**30
    return {
        "weights": weights / gib,
        "optimizer": optimizer / gib,
        "peak": (weights + optimizer + memory.peak) / gib,
        "trained_millions": sum(p.numel() for p in trained) / 1e6,
    }


def _make_fake(nets: SiameseNetworks) -> None:
    """FakeTensors for all weights: float32 for what is trained, bf16 for what is frozen."""
    for module in nets.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            dtype = torch.float32 if weight.requires_grad else torch.bfloat16
            fake = nn.Parameter(torch.empty(weight.shape, dtype=dtype), weight.requires_grad)
            setattr(module, name, fake)


def _batch(count: int, size: int) -> Batch:
    latents = torch.zeros(count, 4, size // 8, size // 8)
    return Batch(
        latents=latents,
        noise=torch.zeros_like(latents),
        timesteps=torch.full((count,), 500),
        text=torch.zeros(count, 77, SD15.context_dim),
        mask=torch.zeros(count, 1, size, size),
        image=torch.zeros(count, 3, size, size),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write")
    given = parser.parse_args(arguments)
    rows: dict[str, dict[str, float]] = {}
    for name, settings in SETTINGS.items():
        rows[name] = count_step(*settings)
        print(name, {key: round(value, 2) for key, value in rows[name].items()}, flush=True)
    given.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
