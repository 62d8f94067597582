"""--ip_noise_gamma: noise on the input of the networks, and not in their target."""

from __future__ import annotations

from pathlib import Path

import torch
from siamese_diffusion.training.data.batch_order import Share
from siamese_diffusion.training.data.draws import TOGETHER
from siamese_diffusion.training.method.objective import Batch
from siamese_diffusion.training.run.input_noise import add_input_noise
from support.small_datasets import CPU, config

ALL = Share.all_of(8)


def batch() -> Batch:
    noise = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros_like(noise)
    return Batch(zeros, noise, torch.arange(8), zeros, zeros, zeros)


def test_it_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    whole = batch()
    assert add_input_noise(config(tmp_path), whole, ALL, 3) is whole
    settings = config(tmp_path, ip_noise_gamma=0.5)
    first, again = (add_input_noise(settings, whole, ALL, 3) for _ in range(2))
    other = add_input_noise(settings, whole, ALL, 4)
    assert torch.equal(first.noise, whole.noise)
    assert torch.equal(first.noise_in_input, again.noise_in_input)
    assert not torch.equal(first.noise_in_input, other.noise_in_input)
    added = first.noise_in_input - whole.noise
    assert 0.47 < float(added.std()) < 0.53
    part = add_input_noise(settings, whole.rows(2, 4), Share(slice(2, 4), 8), 3)
    assert torch.equal(part.noise_in_input, first.noise_in_input[2:4])
    assert torch.equal(first.rows(2, 4).to(CPU).noise_in_input, part.noise_in_input)


def test_its_strength_may_be_drawn_for_each_step(tmp_path: Path) -> None:
    settings = config(tmp_path, ip_noise_gamma=0.5, ip_noise_gamma_random_strength=True)
    whole = batch()
    strengths = [
        float((add_input_noise(settings, whole, ALL, step).noise_in_input - whole.noise).std())
        for step in range(40)
    ]
    assert max(strengths) < 0.53 and min(strengths) < 0.1
    assert 0.2 < sum(strengths) / 40 < 0.3


def test_a_row_of_a_large_batch_is_the_same_whatever_process_trains_it(tmp_path: Path) -> None:
    """Also past the rows that are drawn together, of which a process draws no more than it has."""
    settings, count = config(tmp_path, ip_noise_gamma=0.5), TOGETHER + 4
    noise = torch.zeros(count, 4, 8, 8)
    whole = Batch(noise, noise, torch.arange(count), noise, noise, noise)
    found = add_input_noise(settings, whole, Share.all_of(count), 3).noise_in_input
    rows = [1, TOGETHER - 1, TOGETHER, count - 1]
    part = add_input_noise(settings, whole.rows(0, 4), Share(rows, count), 3).noise_in_input
    assert torch.equal(part, found[rows])
    assert len({float(row.sum()) for row in found}) == count
