"""Inputs that ComfyUI passes on unchecked: older versions any choice, all versions connections."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest_plugins = ["support.comfy_inside"]


@pytest.fixture
def overlay(pack: SimpleNamespace) -> Any:
    """The node's `execute` with good inputs, of which some are replaced."""
    from siamese_diffusion.nodes.picture_nodes import SiameseOverlay

    image, mask = torch.rand(1, 16, 16, 3), torch.zeros(1, 16, 16)
    good = {"image": image, "mask": mask, "colour": "green", "outline": 2, "tint": 0.2}
    return lambda **others: SiameseOverlay.execute(**{**good, **others})


def test_good_inputs_pass(overlay: Any) -> None:
    assert overlay().args


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("colour", "nope", "one of: green, yellow"),
        ("colour", "gr\udceeen", r"colour is '.*udcee.*'; expected one of"),
        ("tint", math.nan, "number from 0"),
        ("tint", math.inf, "number from 0"),
        ("tint", 5.0, "number from 0"),
        ("outline", 1.5, "whole number"),
        ("outline", "2", "whole number"),
        ("outline", None, "whole number"),
        ("colour", None, "one of: green"),
        ("tint", 10**400, "number from 0"),
    ],
)
def test_what_the_schema_does_not_allow_is_named(
    overlay: Any, name: str, value: Any, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        overlay(**{name: value})
    assert str(error.value).startswith(f"{name} is ")
    str(error.value).encode()  # a lone surrogate would end ComfyUI's worker


@pytest.mark.parametrize(
    "value",
    [
        None, "text", {}, [1], torch.zeros(2, 2, dtype=torch.complex64), torch.zeros(0, 4),
        torch.full((4, 4), math.nan), torch.zeros(1, 2, 3, 4, 5), "n" * 1_000_000, "\x1b[2J",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["image", "mask"])
def test_what_is_connected_is_looked_at(overlay: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"[Tt]he {name}|{name} ") as error:
        overlay(**{name: value})
    assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_images_of_whole_numbers_are_not_guessed_at(overlay: Any) -> None:
    with pytest.raises(ValueError, match=r"uint8 values; expected floating point"):
        overlay(image=torch.zeros(1, 16, 16, 3, dtype=torch.uint8))


def test_an_unknown_schedule_makes_no_image(pack: SimpleNamespace) -> None:
    from siamese_diffusion.nodes.sampler_nodes import SiameseSampler
    from siamese_diffusion.nodes.schema import check_inputs

    inputs = SiameseSampler.define_schema().inputs
    for name, value in (("scheduler", "nope"), ("sampler", "nope"), ("cfg", math.nan)):
        (declared,) = [each for each in inputs if each.id.startswith(name)]
        with pytest.raises(ValueError, match=f"{declared.id} is '?(nope|nan)"):
            check_inputs(inputs, {declared.id: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_not_saved(
    value: float, pack: SimpleNamespace, tmp_path: Any
) -> None:
    image = torch.full((16, 16, 3), 0.5)
    image[3, 4, 1] = value
    folder = pack.pair_folder.PairFolder(tmp_path)
    with pytest.raises(ValueError, match="finite"):
        folder.write("one", image, torch.ones(1, 16, 16), "a lesion")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
