"""Fixtures for tests that sample with a Siamese ControlNet inside ComfyUI."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from support.control_inputs import SIZE, Sample, random


@pytest.fixture
def sample(pack: SimpleNamespace, model: Any) -> Sample:
    """sample(control, mask, ...) -> latents; the same noise and prompts for each call."""

    def run(
        control: Any = None, mask: Tensor | None = None, *, noise: Tensor | None = None,
        cfg: float = 7.0, steps: int = 2, on: Any = None, **apply: float,
    ) -> Tensor:  # fmt: skip
        conditioning = [[[random(1, 77, 768, seed=seed), {}]] for seed in (1, 2)]
        if control is not None:
            conditioning = pack.conditioning.apply_mask(*conditioning, control, mask, **apply)
        noise = random(1, 4, SIZE // 8, SIZE // 8) if noise is None else noise
        settings = pack.sampling.Settings(steps, cfg, "ddim", "ddim_published", seed=0)
        return pack.sampling.sample(on or model, noise, *conditioning, settings)

    return run


@pytest.fixture
def dhi_inputs(control: Any) -> list[Tensor]:
    """What the DHI is run on, one entry a forward pass."""
    seen: list[Tensor] = []
    features = control.control_model.input_hint_block[0]
    features.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    return seen
