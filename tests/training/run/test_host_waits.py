"""A step waits for its device once, and sends it no more than its batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from siamese_diffusion.training.method.objective import Batch, Losses, Objective
from siamese_diffusion.training.run.gradient_update import GradientUpdate
from support.host_waits import META, Traffic, meta_trainer
from support.tiny_runs import flags

pytestmark = pytest.mark.slow  # shapes are computed in Python

SIZE, PIXELS = 2, 64
SETTINGS = [f"--train_batch_size={SIZE}", "--ema_decay=0.9"]
LATENT = 4 * (PIXELS // 8) ** 2


def step(arguments: list[str]) -> tuple[Traffic, int]:
    """What the last of three steps does, half of its samples augmented; and the text's size."""
    trainer = meta_trainer(arguments)
    trainer.step = 2
    with trainer.batches, Traffic() as traffic:
        losses, _ = trainer.train_step()
    assert set(losses) == {"image", "mask", "consistency", "augmentation"}
    assert trainer.ema is None or {p.device for p in trainer.ema.shadow_params} == {META}
    return traffic, trainer.data.texts.load([""])[0].numel()


@pytest.mark.parametrize("more", [[], ["--max_grad_norm=1", "--loss_type=huber"]])
def test_a_step_waits_once(tiny: Path, pairs: Path, tmp_path: Path, more: list[str]) -> None:
    traffic, text = step(flags(tiny, pairs, tmp_path, *SETTINGS, *more))
    assert traffic.asked == ["_to_copy"], "the losses, read all at once"
    assert traffic.waiting == []
    # Latents, noise and text in float32, mask and image as bytes, a timestep in 64 bits; and for
    # one sample in two its index.
    assert traffic.sent == SIZE * (4 * (2 * LATENT + text) + 4 * PIXELS**2 + 8) + SIZE // 2 * 8


def test_a_second_wait_is_seen(
    tiny: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was: the number of augmented samples, and the gradients' norm."""
    losses, apply = Objective.losses, GradientUpdate.apply

    def asking(objective: Objective, batch: Batch, *arguments: object) -> Losses:
        assert bool((batch.timesteps <= 200).any())
        return losses(objective, batch, *arguments)  # type: ignore[arg-type]

    def waiting(update: GradientUpdate) -> None:
        float(torch.stack([p.grad.norm() for p in update.parameters if p.grad is not None]).sum())
        torch.ones(1).to(META)
        apply(update)

    monkeypatch.setattr(Objective, "losses", asking)
    monkeypatch.setattr(GradientUpdate, "apply", waiting)
    traffic, _ = step(flags(tiny, pairs, tmp_path, *SETTINGS))
    assert traffic.asked == ["_local_scalar_dense", "_to_copy", "_local_scalar_dense"]
    assert traffic.waiting == ["_to_copy"]
