"""What is chosen for GPUs, as far as that shows without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from siamese_diffusion.benchmarks.workload import TINY, Scale, random_batch, random_networks
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.training.command_line import parse_args
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.optimizers import with_fused
from siamese_diffusion.training.method.noise_schedule import NoiseSchedule
from siamese_diffusion.training.method.objective import Objective
from siamese_diffusion.training.run.gradient_update import GradientUpdate
from siamese_diffusion.training.run.speed import choose_kernels
from support.small_datasets import config
from support.tiny_runs import flags
from torch import nn

BACKENDS: Any = torch.backends  # whose stubs lack some


def on(*devices: str) -> list[Any]:
    """Parameters of a device that this machine need not have."""
    return [SimpleNamespace(device=torch.device(name)) for name in devices]


@pytest.mark.parametrize(
    ("name", "arguments", "devices", "fused"),
    [
        ("AdamW", ["weight_decay=0.1"], ["cuda", "cuda:0"], True),
        ("adamw", [], ["cuda"], True),
        ("AdamW", [], ["cpu"], True),
        ("AdamW", [], ["cuda", "mps"], False),
        ("SGDNesterov", [], ["cuda"], False),
        ("AdamW", ["foreach=True"], ["cuda"], False),
        ("AdamW", ["fused=False"], ["cuda"], False),
    ],
)
def test_adamw_is_fused_unless_told_otherwise(
    name: str, arguments: list[str], devices: list[str], fused: bool
) -> None:
    more = ["fused=True"] if fused else []
    assert with_fused(name, arguments, on(*devices)) == [*arguments, *more]


@pytest.fixture
def kernels_as_they_were() -> Iterator[None]:
    matmul, cudnn = BACKENDS.cuda.matmul, BACKENDS.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.mark.usefixtures("kernels_as_they_were")
def test_kernels_are_those_of_the_flags(tmp_path: Path) -> None:
    def chosen(sizes: list[tuple[int, int]], **options: bool) -> tuple[bool, bool, bool]:
        choose_kernels(config(tmp_path, **options), sizes)
        matmul, cudnn = BACKENDS.cuda.matmul, BACKENDS.cudnn
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    one_size, two_sizes = [(64, 64), (64, 64)], [(64, 64), (64, 128)]
    assert chosen(one_size) == (True, True, True)
    assert chosen(two_sizes) == (True, True, False)
    assert chosen(one_size, deterministic=True) == (True, True, False)
    assert chosen(one_size, no_tf32=True) == (False, False, True)
    assert BACKENDS.mkldnn.matmul.fp32_precision != "tf32", "CPUs compute as they did"


def test_a_state_does_not_say_which_kernels_to_use() -> None:
    """It may have been saved on another device."""
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    update = GradientUpdate.__new__(GradientUpdate)
    update.accelerator = SimpleNamespace(scaler=None)
    update.optimizer = torch.optim.AdamW([weight])
    update.scheduler = torch.optim.lr_scheduler.ConstantLR(update.optimizer)
    update.optimizer.step()
    update.scheduler.step()
    saved = {"optimizer": update.optimizer.state_dict(), "scheduler": update.scheduler.state_dict()}
    update.optimizer = torch.optim.AdamW([weight], fused=True)
    update.scheduler = torch.optim.lr_scheduler.ConstantLR(update.optimizer)
    update.restore(saved, step=1)
    group = update.optimizer.param_groups[0]
    assert group["fused"] is True
    assert float(update.optimizer.state[weight]["step"]) == 1


@pytest.mark.parametrize(
    ("launched", "own", "taken"),
    [
        ("bf16", [], "bf16"),
        ("BF16", ["--mixed_precision=bf16"], "bf16"),
        ("no", [], "no"),
        ("no", ["--mixed_precision=bf16"], "bf16"),
        (None, ["--mixed_precision=bf16"], "bf16"),
    ],
)
def test_the_launchers_precision_is_taken_over(
    launched: str | None,
    own: list[str],
    taken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert parse_args(flags(tmp_path, tmp_path, tmp_path, *own)).mixed_precision == taken


@pytest.mark.parametrize(
    ("launched", "own", "expected"),
    [
        (
            "bf16",
            ["--mixed_precision=no"],
            "--mixed_precision bf16, but --mixed_precision here is no",
        ),
        ("fp8", [], "--mixed_precision fp8, but here it is one of no, fp16, bf16. Give both"),
    ],
)
def test_a_precision_that_would_be_ignored_is_refused(
    launched: str, own: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    with pytest.raises(ConfigError, match=expected):
        parse_args(flags(tmp_path, tmp_path, tmp_path, *own))


@pytest.mark.usefixtures("kernels_as_they_were")
def test_kernels_are_not_tried_out_for_each_number_of_augmented_samples() -> None:
    """Forward and backward: a new number would cost a GPU seconds, in almost every step."""
    scale = Scale("tiny", TINY, batch=3, pixels=16, rounds=1)
    nets = random_networks(TINY)
    objective = Objective(nets, NoiseSchedule(), RECIPES["published"], max_steps=3)
    tried: set[tuple[str, int, bool]] = set()  # samples, and whether kernels are tried out

    def note(direction: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, _inputs: Any, outputs: Any) -> None:
            rows = len(outputs if direction == "forward" else outputs[0])
            tried.add((direction, rows, BACKENDS.cudnn.benchmark))

        return hook

    nets.unet.conv_out.register_forward_hook(note("forward"))
    nets.unet.conv_out.register_full_backward_hook(note("backward"))
    BACKENDS.cudnn.benchmark = True
    objective.losses(random_batch(scale, augmented=1), 3, lambda loss: loss.sum().backward())
    assert tried == {(d, n, n == 3) for d in ("forward", "backward") for n in (1, 3)}
    assert BACKENDS.cudnn.benchmark
