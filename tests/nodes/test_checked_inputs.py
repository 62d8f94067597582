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
        ("outline", 2.0, "whole number"),
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


@pytest.mark.parametrize("name", ["image", "mask"])
@pytest.mark.parametrize("kind", ["uint8", "int64", "float8_e4m3fn", "sparse", "quantised", "meta"])
def test_values_whose_range_is_not_known_are_not_guessed_at(
    kind: str, name: str, overlay: Any
) -> None:
    """A mask of 100 of 255 is black, and one of 1 of 1 white."""
    values = torch.ones(1, 16, 16, 3) if name == "image" else torch.ones(1, 16, 16)
    if kind == "sparse":
        odd = values.to_sparse()
    elif kind == "quantised":
        odd = torch.quantize_per_tensor(values, 0.1, 0, torch.quint8)
    else:
        odd = values.to("meta") if kind == "meta" else values.to(getattr(torch, kind))
    with pytest.raises(ValueError, match=rf"The {name} .*expected floating point .* Connect") as e:
        overlay(**{name: odd})
    assert str(e.value).isprintable()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.bool])
def test_masks_of_other_types_are_read(dtype: torch.dtype, overlay: Any) -> None:
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:9, 4:9] = 1
    assert torch.equal(overlay(mask=mask.to(dtype)).args[0], overlay(mask=mask).args[0])


@pytest.fixture
def listed(pack: SimpleNamespace) -> dict[str, Any]:
    """The nodes that take lists, with good inputs, of which some are replaced."""
    from siamese_diffusion.nodes.picture_nodes import SiameseContactSheet, SiameseFilterPairs

    both = {"image": [torch.rand(1, 16, 16, 3)], "mask": [torch.ones(1, 16, 16)]}
    sheet = {**both, "columns": [0], "cell_size": [16]}
    kept = {**both, "minimum": [0.0], "stem": ["a"]}
    return {
        "sheet": lambda **others: SiameseContactSheet.execute(**{**sheet, **others}),
        "filter": lambda **others: SiameseFilterPairs.execute(**{**kept, **others}),
    }


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("sheet", "columns", []), ("sheet", "columns", 3), ("sheet", "image", 3),
        ("filter", "minimum", []), ("filter", "scores", []), ("filter", "stem", "a"),
    ],
)  # fmt: skip
def test_what_is_no_list_is_named(node: str, name: str, value: Any, listed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{name} is .*; expected a list"):
        listed[node](**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("node", ["overlay", "sheet"])
def test_an_image_that_is_not_finite_is_not_drawn_as_black(
    node: str, value: float, overlay: Any, listed: dict[str, Any]
) -> None:
    image = torch.rand(1, 16, 16, 3)
    image[0, 3, 3, 1] = value
    with pytest.raises(ValueError, match="The image holds values that are not finite"):
        overlay(image=image) if node == "overlay" else listed[node](image=[image])


def test_a_long_name_is_shortened_in_the_text(listed: dict[str, Any]) -> None:
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:9, 4:9] = 1
    with pytest.raises(ValueError, match="Nothing is left") as error:
        listed["filter"](stem=["n" * 1_000_000], mask=[mask], minimum=[1.0])
    assert len(str(error.value)) < 500


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
