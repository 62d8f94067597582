"""Factors of a low-rank bundle that make no weight: one line that names file and layer."""

from __future__ import annotations

import pytest
import torch
from siamese_diffusion.models.kinds import UNET, Kind
from siamese_diffusion.models.low_rank import expanded
from siamese_diffusion.models.weights import StateDict, WeightsError, merge
from support.seeded_weights import weight_file
from torch import Tensor

NAME = "output_blocks.0.0.out_layers.3"


def factors(down: Tensor, up: Tensor, alpha: Tensor | None = None) -> StateDict:
    name = f"{UNET}{NAME}"
    alpha = torch.tensor(1.0) if alpha is None else alpha
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": alpha}
    return {f"{name}.{part}": value for part, value in parts.items()}


def whole(tensors: StateDict, base: Tensor) -> Tensor:
    file = weight_file(tensors, Kind.LOW_RANK)
    return expanded(file, {f"{NAME}.weight": base}).tensors[f"{UNET}{NAME}.weight"]


def test_factors_make_the_weight() -> None:
    down, up = torch.randn(2, 5, 3, 3), torch.randn(4, 2, 1, 1)
    found = whole(factors(down, up, torch.tensor(6.0)), torch.ones(4, 5, 3, 3))
    assert torch.allclose(found, 1 + 3 * torch.einsum("or,rihw->oihw", up[..., 0, 0], down))


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((0, 5), (4, 0)),  # rank 0
        ((5,), (4,)),
        ((2, 5), (0, 2)),
        ((2, 5), (2, 4)),
        ((2, 5, 1, 1), (4, 2)),
        ((2, 5), (4, 2, 1)),
        ((), ()),
    ],
)
def test_factors_of_odd_shapes_are_refused(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    with pytest.raises(
        WeightsError, match=rf"made_up.*: the factors of {UNET}{NAME}.weight do not"
    ):
        whole(factors(torch.ones(down), torch.ones(up)), torch.ones(4, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_finite_factors_of_an_infinite_weight_are_refused(dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max / 2
    with pytest.raises(WeightsError, match=r"values that are not finite.*Use an earlier step"):
        whole(
            factors(torch.full((1, 5), large), torch.full((4, 1), 3.0)), torch.ones(4, 5).to(dtype)
        )


@pytest.mark.parametrize(
    ("first", "second", "wider"),
    [
        (torch.float8_e4m3fn, torch.float16, torch.float16),
        (torch.float8_e5m2, torch.float32, torch.float32),
        (torch.float8_e4m3fn, torch.float8_e5m2, torch.float16),
        (torch.float8_e4m3fn, torch.float8_e4m3fn, torch.float8_e4m3fn),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float32, torch.float16, torch.float32),
    ],
)
def test_a_merged_decoder_has_the_wider_format_of_both(
    first: torch.dtype, second: torch.dtype, wider: torch.dtype
) -> None:
    values = torch.tensor([1.0, -2.0, 0.5])
    key = f"{UNET}output_blocks.0.0.in_layers.0.weight"
    for decoder, base in ((first, second), (second, first)):
        bundle = weight_file({key: values.to(decoder)}, Kind.BUNDLE)
        merged = merge({key: torch.zeros(3).to(base)}, bundle)[key]
        assert merged.dtype == wider
        assert torch.equal(merged.float(), values)
