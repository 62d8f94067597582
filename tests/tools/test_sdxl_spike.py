"""The spike of docs/sdxl.md: one training step and one sampled latent on SDXL's architecture."""

from __future__ import annotations

import pytest
import torch
from siamese_diffusion.tools.sdxl_spike import SMALL, full_size, run_spike
from support.paths import ROOT


def test_one_step_and_one_latent() -> None:
    nets, losses, latent = run_spike()
    assert set(losses) == {"image", "mask", "consistency", "augmentation"}
    assert losses["image"] == pytest.approx(losses["mask"])  # the zero convolutions are still zero
    assert losses["consistency"] == pytest.approx(0, abs=1e-8)
    assert latent.shape == (1, 4, 8, 8) and torch.isfinite(latent).all()
    zero = nets.controlnet.controlnet_mid_block.weight
    assert zero.abs().max() > 0, "the step has not reached the ControlNet"
    assert nets.unet.conv_out.weight.grad is not None
    assert nets.unet.conv_in.weight.grad is None
    # The pooled text and the sizes count, each by itself.
    noisy, times = torch.randn(1, 4, 8, 8), torch.tensor([500])
    text = torch.zeros(1, 78, SMALL.text)
    outputs = []
    with torch.no_grad():
        for changed in (None, 0, SMALL.pooled):
            given = text.clone()
            if changed is not None:
                given[0, -1, changed] = 50.0
            outputs.append(nets.encode(noisy, times, given).middle)
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def test_the_documented_sizes_are_counted() -> None:
    sizes = full_size()
    text = (ROOT / "docs/sdxl.md").read_text("utf-8")
    assert round(sizes["UNet"]) == 2567  # as published by Stability AI, in millions
    for part in ("ControlNet", "decoder"):
        assert f"{round(sizes[part]):,} M" in text
