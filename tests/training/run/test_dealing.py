"""Samples that take longer are dealt out evenly to the processes."""

from __future__ import annotations

import pytest
import torch
from siamese_diffusion.training.run.dealing import deal_rows


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_every_sample_goes_to_one_process_and_low_timesteps_evenly(
    processes: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    timesteps = torch.randint(1000, (48,), generator=random)
    dealt = deal_rows(timesteps, processes)
    assert {len(rows) for rows in dealt} == {48 // processes}
    assert sorted(row for rows in dealt for row in rows) == [*range(48)]
    augmented = [int((timesteps[rows] <= 200).sum()) for rows in dealt]
    assert max(augmented) - min(augmented) <= 1


def test_one_process_has_the_batch_as_it_is() -> None:
    [rows] = deal_rows(torch.tensor([900, 3, 500, 200, 201]), 1)
    assert rows == [0, 1, 2, 3, 4]
