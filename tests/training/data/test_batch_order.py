"""Which images make a batch: full batches of one size, every image equally often."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from siamese_diffusion.training.data import batch_order
from siamese_diffusion.training.data.batch_order import BatchOrder, generator
from siamese_diffusion.training.data.summary import describe_counts

# 100 images in 10 sizes, one of them alone in its size.
TEN_SIZES = [0, *(size for size in range(1, 10) for _ in range(11))]


def counted(order: BatchOrder, steps: int, samples: int) -> list[int]:
    """How often each sample is in the first batches, counted one by one."""
    counts = Counter(index for step in range(steps) for index in order.batch(step))
    return [counts[index] for index in range(samples)]


def shuffled_epoch(samples: int, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """The order of images of one size that fill their batches, written out once more."""
    values = generator(seed, "order", epoch)
    order = torch.randperm(samples, generator=values).tolist()
    batches = [order[start : start + batch] for start in range(0, samples, batch)]
    return [batches[i] for i in torch.randperm(len(batches), generator=values).tolist()]


def test_images_of_one_size_are_shuffled_anew_each_epoch() -> None:
    order = BatchOrder([(384, 384)] * 12, 4, seed=42)
    found = [order.batch(step) for step in range(9)]
    assert found == [batch for epoch in range(3) for batch in shuffled_epoch(12, 4, 42, epoch)]
    # The numbers of PyTorch's generator, as runs that were begun earlier have drawn them.
    assert found[:3] == [[1, 3, 0, 7], [8, 10, 2, 9], [4, 6, 11, 5]]


@pytest.mark.parametrize("batch", [1, 4, 6, 16, 48])
@pytest.mark.parametrize("groups", [["a"] * 6, ["a", "b"] * 5, TEN_SIZES, [*"aaaaaaaab"]])
def test_batches_are_full_and_of_one_size(groups: list[object], batch: int) -> None:
    order = BatchOrder(groups, batch, seed=1)
    for step in range(60):
        indices = order.batch(step)
        assert len(indices) == batch
        assert len({groups[index] for index in indices}) == 1


@pytest.mark.parametrize(
    ("groups", "batch"),
    [
        (["a"] * 10, 4),  # one size, and a batch that does not divide
        (["a"] * 7 + ["b"] * 9 + ["c"] * 5, 5),
        (TEN_SIZES[1:], 8),
    ],
)
def test_at_the_end_of_an_epoch_counts_differ_by_at_most_one(
    groups: list[object], batch: int
) -> None:
    order = BatchOrder(groups, batch, seed=3)
    sizes = Counter(groups)
    steps = 0
    for epoch in range(1, 40):
        steps += sum(epoch * size // batch - (epoch - 1) * size // batch for size in sizes.values())
        counts = counted(order, steps, len(groups))
        assert set(counts) <= {epoch - 1, epoch}


def test_an_image_alone_in_its_size_is_seen_as_often_as_the_others() -> None:
    """Its batches hold it 48 times, and come every 48 epochs: 100 pairs, 8 GPUs with 6 each."""
    order = BatchOrder(TEN_SIZES, 48, seed=0)
    assert order.steps_per_epoch == pytest.approx(100 / 48)
    steps = 100 * 5  # 240 epochs
    counts = counted(order, steps, 100)
    assert counts[0] == 240
    assert set(counts[1:]) <= {239, 240}


@pytest.mark.parametrize("steps", [0, 1, 7, 100, 333])
def test_counts_are_those_of_the_batches(steps: int) -> None:
    for groups, batch in ((TEN_SIZES, 48), (["a"] * 10, 4), (TEN_SIZES, 3)):
        order = BatchOrder(groups, batch, seed=5)
        assert order.counts(steps) == counted(order, steps, len(groups))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    """As a resumed run asks for it: any step first, and in any order."""
    order = BatchOrder(TEN_SIZES, 16, seed=2)
    expected = [order.batch(step) for step in range(200)]
    steps = list(range(200))
    random.Random(0).shuffle(steps)
    other = BatchOrder(TEN_SIZES, 16, seed=2)
    assert {step: other.batch(step) for step in steps} == dict(enumerate(expected))
    assert BatchOrder(TEN_SIZES, 16, seed=2).batch(199) == expected[199]
    assert [BatchOrder(TEN_SIZES, 16, seed=4).batch(step) for step in range(9)] != expected[:9]


def test_a_step_far_away_is_not_counted_up_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 images in 20 sizes, resumed after 9,600 epochs."""
    drawn = []

    def counted_generator(*of: Any) -> torch.Generator:
        drawn.append(of)
        return generator(*of)

    monkeypatch.setattr(batch_order, "generator", counted_generator)
    order = BatchOrder([index % 20 for index in range(99_999)] + ["alone"], 48, seed=0)
    order.batch(20_000_000)
    # An epoch and the one before, where remainders were left; 48 where the lone image has a batch.
    assert len(drawn) <= 50
    order.batch(20_000_001)
    assert len(drawn) <= 50


@pytest.mark.parametrize(
    ("counts", "buckets", "expected"),
    [
        ([5, 5, 5], False, "5 times (most / least: 1.00)"),
        ([4, 5, 5], True, "4 to 5 times (most / least: 1.25)"),
        (
            [0, 5, 0, 6],
            True,
            "0 to 6 times; 2 of 4 pairs are never seen: train more steps, with smaller batches, or "
            "without --enable_bucket",
        ),
        (
            [0, 1],
            False,
            "0 to 1 times; 1 of 2 pairs are never seen: train more steps, or with larger batches",
        ),
    ],
)
def test_the_summary_says_how_unequal_frequencies_are(
    counts: list[int], buckets: bool, expected: str
) -> None:
    assert describe_counts(counts, buckets) == expected
