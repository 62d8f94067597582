"""What long use and repetition are measured by, on small amounts of work."""

from __future__ import annotations

from pathlib import Path

import pytest
from siamese_diffusion.benchmarks.determinism import STEPS, TINY, WHOLE, Trainings, difference
from siamese_diffusion.benchmarks.report import (
    RELIABILITY,
    RELIABILITY_DOCS,
    quoted_in_docs,
    read_results,
    tables,
)
from siamese_diffusion.benchmarks.soak.__main__ import PARTS, is_done, read_parts
from siamese_diffusion.benchmarks.soak.server import BASE, BUNDLE, masks_on, prompts_on, write_masks
from siamese_diffusion.benchmarks.soak.training import soak_training
from siamese_diffusion.benchmarks.soak.watch import Growth, Sample
from siamese_diffusion.tools.comfy_host import ComfyHost
from support import workflow_prompts

pytest_plugins = ["support.served_models"]


def samples(memory: list[int], handles: list[int]) -> list[Sample]:
    return [Sample(i, *values) for i, values in enumerate(zip(memory, handles, strict=True))]


def test_growth_is_that_after_the_first_tenth() -> None:
    steady = Growth.of(samples([5, *[100] * 99], [3, *[20] * 99]))
    assert (steady.memory, steady.handles, steady.good) == (0, 0, True)
    leak = Growth.of(samples([*range(1000, 1100)], [20] * 100))
    assert leak.memory == pytest.approx((1095 - 1015) / 1015, rel=0.01) and not leak.good
    files = Growth.of(samples([100] * 100, [*range(100)]))
    assert files.handles == 80 and not files.good


def test_long_use_of_the_server_in_short(served: ComfyHost) -> None:
    """That memory does not grow is for longer runs to show."""
    for folder, name, known in (
        ("checkpoints", BASE, workflow_prompts.BASE),
        ("controlnet", BUNDLE, workflow_prompts.BUNDLE),
    ):
        (served.models / folder / name).symlink_to(served.models / folder / known)
    write_masks(served, 12)
    for part in (prompts_on(served, 12), masks_on(served, 12)):
        assert part["done"] == 12 and part["equal"]
        assert part["handles_growth"] <= 0


@pytest.mark.long
@pytest.mark.slow
def test_long_training_in_short(tmp_path: Path) -> None:
    part = soak_training(tmp_path / "training", 12)
    assert part["equal"] and part["samples"]


@pytest.mark.long
@pytest.mark.slow
def test_what_is_repeated_bit_for_bit_on_a_cpu(tmp_path: Path) -> None:
    """As the documentation says."""
    trainings = Trainings(tmp_path, 32, TINY, deterministic=True)
    saving = f"--save_every_n_steps={STEPS // 2}"
    first, second = (trainings.run(WHOLE, saving) for _ in range(2))
    state = first / f"state/step{STEPS // 2:08d}"
    assert difference(first, second).none
    assert difference(first, trainings.run(WHOLE, f"--resume={state}")).none


def test_the_documentation_quotes_the_results() -> None:
    quoted = quoted_in_docs(RELIABILITY_DOCS)
    assert quoted == tables(read_results(RELIABILITY)).strip(), "run `make soak`"


def test_a_part_that_was_not_good_is_run_again() -> None:
    assert not is_done(None, 20)
    assert is_done({"done": 1990, "good": True}, 2000)
    assert not is_done({"done": 1900, "good": True}, 2000)
    assert not is_done({"done": 2000, "good": False}, 2000)


@pytest.mark.parametrize("name", PARTS)
def test_what_is_committed_is_whole_and_good(name: str) -> None:
    part = read_parts(RELIABILITY)[name]
    assert is_done(part, PARTS[name][1]), "run `make soak`"
    assert part["equal"] and part["handles_growth"] <= 0 and part["memory_growth"] < 0.05
