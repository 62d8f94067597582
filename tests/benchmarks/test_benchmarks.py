"""The benchmarks measure what they say, run anywhere, and the documentation quotes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from siamese_diffusion.benchmarks import turns
from siamese_diffusion.benchmarks.__main__ import BENCHMARKS, TINY_SCALE, main
from siamese_diffusion.benchmarks.measure import (
    TensorMemory,
    count_forwards,
    interleave,
    median_ratio,
)
from siamese_diffusion.benchmarks.published import PublishedObjective
from siamese_diffusion.benchmarks.report import (
    BEGIN,
    END,
    RESULTS,
    SCALE_DOCS,
    Row,
    quote_in_docs,
    quoted_in_docs,
    read_results,
    tables,
)
from siamese_diffusion.benchmarks.turns import interleave_steps
from siamese_diffusion.benchmarks.workload import (
    NANO,
    Step,
    random_batch,
    random_networks,
    spread_timesteps,
)
from siamese_diffusion.tools import nano as nano_base
from siamese_diffusion.training.method.networks import SiameseNetworks
from siamese_diffusion.training.method.noise_schedule import NoiseSchedule
from support.oracle import ORACLE
from support.published_networks import assert_gradient_norms, published_batch
from torch import nn

pytest_plugins = ["support.published_networks"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ORACLE.cases)
def test_the_comparison_computes_what_the_published_code_does(
    nets: SiameseNetworks, name: str
) -> None:
    case = ORACLE.cases[name]
    batch = published_batch(case)
    nets.zero_grad(set_to_none=True)
    published = PublishedObjective(nets, NoiseSchedule(), case["max_steps"])
    losses = published.losses(batch, case["global_step"])
    total = torch.stack([*losses.values()]).sum(0)
    total.mean().backward()
    expected = torch.tensor(case["per_sample_total"])
    torch.testing.assert_close(total.detach(), expected, rtol=1e-5, atol=0)
    assert ("augmentation" in losses) == case["augmentation_ran"]
    assert_gradient_norms(nets, case["grad_norm_total"])


@pytest.fixture(scope="module")
def tiny_nets() -> SiameseNetworks:
    return random_networks(TINY_SCALE.shape)


def test_both_sides_learn_the_same(tiny_nets: SiameseNetworks) -> None:
    nets, batch = tiny_nets, random_batch(TINY_SCALE, augmented=1)
    gradients = []
    for published in (True, False):
        nets.zero_grad(set_to_none=True)
        losses = Step(nets, published=published).losses(batch)
        assert set(losses) == {"mask", "image", "consistency", "augmentation"}
        found = [p.grad for p in nets.parameters() if p.requires_grad]
        assert all(grad is not None for grad in found)
        gradients.append(torch.cat([grad.flatten() for grad in found if grad is not None]))
    nets.zero_grad(set_to_none=True)
    theirs, ours = gradients
    assert (theirs - ours).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize(
    ("published", "augmented", "expected"),
    [
        (True, 0, {"C": 15, "E": 10, "D": 10}),
        (True, 1, {"C": 20, "E": 15, "D": 15}),
        (False, 0, {"C": 10, "E": 5, "D": 10}),
        (False, 1, {"C": 11, "E": 6, "D": 11}),
    ],
)
def test_samples_through_each_network(
    tiny_nets: SiameseNetworks, published: bool, augmented: int, expected: dict[str, int]
) -> None:
    nets = tiny_nets
    with count_forwards(nets) as samples:
        Step(nets, published=published).losses(random_batch(TINY_SCALE, augmented))
    nets.zero_grad(set_to_none=True)
    assert dict(samples) == expected


def test_tensor_memory_counts_what_is_alive() -> None:
    weights = nn.Linear(256, 256, bias=False)
    size = torch.ones(256, 256).nbytes
    with TensorMemory(weights) as memory:
        hidden = weights(torch.ones(256, 256))
        assert memory.live == 2 * size  # input and output
        loss = hidden.sin().sum()
        del hidden
        assert memory.live == 2 * size + loss.nbytes
        loss.backward()
        del loss
        assert memory.live == size  # the gradient
    assert memory.peak >= 3 * size  # during the backward pass


def test_sides_take_turns() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    seconds = interleave(sides, rounds=2)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    assert median_ratio([1.0, 9.0, 2.0], [2.0, 1.0, 2.0]) == 1.0


def test_steps_take_turns_and_each_is_charged_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = 0  # moves only while a side works

    def side(name: str, steps: int, step_done: Callable[[], None]) -> None:
        nonlocal clock
        for _ in range(steps):
            clock += 7 if name == "slow" else 1
            order.append(name)
            step_done()

    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: clock))
    sides = {"slow": partial(side, "slow", 2), "short": partial(side, "short", 1)}
    seconds = interleave_steps(sides, rounds=2)
    assert order == ["slow", "short", "slow"] * 2
    assert seconds == {"slow": [14, 14], "short": [1, 1]}


def test_a_side_that_fails_ends_the_measurement() -> None:
    def fails(step_done: Callable[[], None]) -> None:
        step_done()
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        interleave_steps({"fails": fails, "runs": lambda step_done: step_done()}, rounds=1)


def test_timesteps_hold_as_many_augmented_samples_as_asked_for() -> None:
    timesteps = torch.tensor(spread_timesteps(10, 2))
    assert len(timesteps) == 10
    assert int((timesteps <= 200).sum()) == 2
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999


def test_nano_is_the_base_model_of_the_tests() -> None:
    assert nano_base.SHAPE == NANO


@pytest.mark.long
@pytest.mark.slow
def test_benchmarks_run_and_write_their_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--tiny", "--out", str(tmp_path)]) == 0
    results = read_results(tmp_path)
    assert {result.name for result in results} == set(BENCHMARKS)
    assert tables(results[:1]) in capsys.readouterr().out
    docs = tmp_path / "docs.md"
    docs.write_text(f"Before\n{BEGIN}\nold\n{END}\nAfter\n", encoding="utf-8")
    quote_in_docs(results, docs)
    assert quoted_in_docs(docs) == tables(results).strip()
    assert docs.read_text(encoding="utf-8").startswith("Before\n")
    assert docs.read_text(encoding="utf-8").endswith("After\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["stpe"],
            "known: step, caching, sampling, synthesis, items, settings, files, loading, data, "
            "memory, gpu",
        ),
        (["--batch", "6"], "a multiple of 5"),
        (["--tiny"], "--out"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_the_documentation_quotes_the_results() -> None:
    results = read_results(RESULTS)
    assert quoted_in_docs() == tables(results).strip(), "run `make bench`"
    items = [result for result in results if result.name == "items"]
    assert quoted_in_docs(SCALE_DOCS) == tables(items).strip(), "run `make bench`"


# What the project promises: result -> row -> bound. Not read from the results, which could then
# change promise and outcome together.
BOUNDS = {
    "caching": {
        "published step with encoding / ours, cached": "≤ 0.55",
        "published step with encoding / ours, cached; with augmentation": "≤ 0.55",
    },
    "sampling": {
        "time, against the published procedure": "≤ 0.90",
        "time, against a core ControlNet of the same size": "≤ 1.00",
        "change of the latents": "≤ 5e-4",
    },
    "step": {
        "time, same settings": "≤ 0.82",
        "time with augmentation, same settings": "≤ 0.66",
        "time, our fast settings": "≤ 0.65",
        "time with augmentation, our fast settings": "≤ 0.50",
        "change of the loss, our fast settings": "≤ 1e-3",
        "peak memory above the weights": "≤ 0.65",
        "peak memory above the weights with augmentation": "≤ 0.65",
    },
}


def test_every_committed_result_meets_what_is_promised() -> None:
    results = {result.name: result for result in read_results(RESULTS)}
    for name, bounds in BOUNDS.items():
        rows = {row.what: row for row in results[name].rows if isinstance(row, Row)}
        assert {what: row.target for what, row in rows.items() if row.target} == bounds
        for what, bound in bounds.items():
            row = rows[what]
            found = float(row.ours) if row.ratio is None else row.ratio
            assert found <= float(bound.removeprefix("≤ ")), what
