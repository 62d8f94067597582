"""Making masks and looking at pairs: the functions alone, and the nodes in a real server."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from siamese_diffusion.tools.comfy_host import ComfyHost, HostError
from torch import Tensor
from workflow_prompts import Prompt, images, node, texts, write_mask

pytest_plugins = ["comfy_inside", "served_models"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def square(size: int = 64) -> Tensor:
    mask = torch.zeros(size, size)
    mask[16:40, 12:36] = 1
    return mask


# Masks


@pytest.mark.parametrize(
    "changes",
    [
        (True, 0, 0, 0),
        (False, 45, 0, 0),
        (False, 0, 0.5, 0),
        (False, 0, 0, 1),
        (True, 20, 0.2, 0.5),
    ],
)
def test_a_changed_mask_is_another_mask_of_zeros_and_ones(
    pack: SimpleNamespace, changes: tuple[Any, ...]
) -> None:
    how, source = pack.shapes.Changes(*changes), generator(3)
    found = [pack.shapes.augment(square(), how, source) for _ in range(4)]
    for mask in found:
        assert mask.shape == (64, 64)
        assert mask.unique().tolist() == [0, 1]
    assert any(not torch.equal(mask, square()) for mask in found)
    again = generator(3)
    assert all(torch.equal(pack.shapes.augment(square(), how, again), mask) for mask in found)


def test_no_change_is_no_change(pack: SimpleNamespace) -> None:
    how = pack.shapes.Changes(False, 0, 0, 0)
    assert torch.equal(pack.shapes.augment(square(), how, generator()), square())


def test_turning_turns_and_scaling_scales(pack: SimpleNamespace) -> None:
    wide = torch.zeros(64, 64)
    wide[28:36, 8:56] = 1
    for seed in range(10):
        turned = pack.shapes.augment(wide, pack.shapes.Changes(False, 180, 0, 0), generator(seed))
        assert 0.9 < turned.sum() / wide.sum() < 1.1
        scaled = pack.shapes.augment(wide, pack.shapes.Changes(False, 0, 0.3, 0), generator(seed))
        assert 0.4 < scaled.sum() / wide.sum() < 1.8


def test_a_lesion_stays_in_the_picture_or_it_is_an_error(pack: SimpleNamespace) -> None:
    edge, corner, nothing = torch.zeros(3, 64, 64)
    edge[:2, 30:34] = 1
    corner[0, 0] = 1
    how = pack.shapes.Changes(False, 180, 0.5, 0)
    assert all(pack.shapes.augment(edge, how, generator(seed)).any() for seed in range(20))
    assert not pack.shapes.augment(nothing, how, generator()).any()
    turned = pack.shapes.Changes(False, 180, 0, 0)
    with pytest.raises(ValueError, match="20 attempts moved the lesion out of the picture"):
        for seed in range(50):
            pack.shapes.augment(corner, turned, generator(seed))


@pytest.mark.parametrize("size", [(64, 64), (96, 48)])
def test_random_masks_have_the_size_and_area_asked_for(
    pack: SimpleNamespace, size: tuple[int, int]
) -> None:
    source = generator()
    masks = [pack.shapes.random_mask(*size, 1, (0.05, 0.10), source) for _ in range(20)]
    for mask in masks:
        assert mask.shape == (size[1], size[0])
        assert mask.unique().tolist() == [0, 1]
        assert 0.03 < mask.mean() < 0.16
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 20


def augment_prompt(**settings: Any) -> Prompt:
    inputs = {
        **{"seed": 1, "variants": 3, "flip": True},
        **{"rotation": 20.0, "scale": 0.2, "elastic": 0.5, **settings},
    }
    return {
        "3": node("LoadImageMask", image="a.png", channel="red"),
        "new": node("SiameseAugmentMask", mask=["3", 0], **inputs),
        "image": node("MaskToImage", mask=["new", 0]),
        "show": node("PreviewImage", images=["image", 0]),
    }


def random_prompt(**settings: Any) -> Prompt:
    inputs = {
        **{"seed": 1, "width": 64, "height": 48, "count": 2},
        **{"lesions": 2, "smallest": 3.0, "largest": 15.0, **settings},
    }
    return {
        "new": node("SiameseRandomMask", **inputs),
        "image": node("MaskToImage", mask=["new", 0]),
        "show": node("PreviewImage", images=["image", 0]),
    }


def test_augmented_masks_depend_on_the_seed(served: ComfyHost) -> None:
    first, other = (images(served, augment_prompt(seed=seed)) for seed in (1, 2))
    assert len(first) == 3
    assert {tuple(np.unique(found)) for found in first} == {(0, 255)}
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_each_mask_of_a_list_changes_in_its_own_way(served: ComfyHost, folder: str) -> None:
    """The same move of three masks with one upper left corner would keep that in one place."""
    prompt = {**list_prompt(folder), **augment_prompt(variants=1, flip=False, elastic=0.0)}
    prompt["new"]["inputs"]["mask"] = ["load", 0]
    corners = {tuple(np.argwhere(found[..., 0])[0]) for found in images(served, prompt)}
    assert len(corners) == 3


def test_random_masks_depend_on_the_seed(served: ComfyHost) -> None:
    first, other = (images(served, random_prompt(seed=seed)) for seed in (1, 2))
    assert [found.shape for found in first] == [(48, 64, 3)] * 2
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_exchanged_areas_are_an_error(served: ComfyHost) -> None:
    with pytest.raises(HostError, match="smallest is 20 % and largest 10 %: exchange them"):
        served.run(random_prompt(smallest=20.0, largest=10.0))


# Progress


class Progress(list[tuple[int, int]]):
    """What a node told the page: (done, of how many)."""


@pytest.fixture
def progress(pack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Progress]:
    """ComfyUI's own hooks, without a server behind them."""
    import comfy.utils
    from siamese_diffusion.nodes.picture_nodes import SiameseFilterPairs

    told = Progress()
    page = SimpleNamespace(send_progress_text=lambda *_: None)
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=page))
    monkeypatch.setitem(sys.modules, "server", server)
    monkeypatch.setattr(SiameseFilterPairs, "hidden", SimpleNamespace(unique_id="1"))
    comfy.utils.set_progress_bar_global_hook(
        lambda done, total, *_args, **_others: told.append((done, total))
    )
    yield told
    comfy.utils.set_progress_bar_global_hook(None)


def run_node(name: str) -> Any:
    """Run one of our nodes on three images or masks."""
    from siamese_diffusion.nodes import mask_nodes, picture_nodes

    image, mask = torch.rand(3, 16, 16, 3), square()[None].expand(3, -1, -1)
    one = {"image": [image], "mask": [mask]}
    inputs: dict[str, dict[str, Any]] = {
        "SiameseOverlay": {
            **{"image": image, "mask": mask, "colour": "red", "outline": 1, "tint": 0.1}
        },
        "SiameseContactSheet": {**one, "columns": [0], "cell_size": [16]},
        "SiameseFilterPairs": {**one, "minimum": [0.0], "stem": ["pair"]},
        "SiameseAugmentMask": {
            **{"mask": mask[:1], "seed": 0, "variants": 3, "flip": True},
            **{"rotation": 0.0, "scale": 0.0, "elastic": 0.0},
        },
        "SiameseRandomMask": {
            **{"seed": 0, "width": 16, "height": 16, "count": 3, "lesions": 1},
            **{"smallest": 3.0, "largest": 15.0},
        },
    }
    module = mask_nodes if hasattr(mask_nodes, name) else picture_nodes
    return getattr(module, name).execute(**inputs[name])


@pytest.mark.parametrize(
    "name",
    [
        "SiameseOverlay",
        "SiameseContactSheet",
        "SiameseFilterPairs",
        "SiameseAugmentMask",
        "SiameseRandomMask",
    ],
)
def test_nodes_of_many_images_show_progress_and_can_be_interrupted(
    progress: Progress, name: str
) -> None:
    from comfy.model_management import (
        InterruptProcessingException,
        interrupt_current_processing,
    )

    run_node(name)
    assert progress == [(1, 3), (2, 3), (3, 3)]
    interrupt_current_processing(True)
    with pytest.raises(InterruptProcessingException):
        run_node(name)
    assert len(progress) == 3


# Looking


def pair(pack: SimpleNamespace, inside: float = 0.8, around: float = 0.3) -> Any:
    """A grey image whose mask is the served one's kind of square."""
    mask = square()
    image = torch.full((1, 64, 64, 3), around)
    image[0, mask > 0] = inside
    (only,) = pack.pictures.pairs_of([image], [mask])
    return only


def test_an_overlay_tints_the_lesion_and_outlines_it_from_outside(pack: SimpleNamespace) -> None:
    drawn = pack.pictures.overlay(pair(pack), "red", outline=2, tint=0.5)
    assert drawn.shape == (1, 64, 64, 3)
    red = torch.tensor(pack.pictures.COLOURS["red"])
    assert torch.allclose(drawn[0, 30, 30], 0.5 * red + 0.4)
    assert torch.allclose(drawn[0, 15, 30], red)
    assert torch.allclose(drawn[0, 14, 10], red)
    assert torch.allclose(drawn[0, 13, 30], torch.tensor(0.3))
    plain = pack.pictures.overlay(pair(pack), "red", outline=0, tint=0.0)
    assert torch.equal(plain, pair(pack)[0].movedim(1, -1))


def test_contrast_is_the_difference_to_the_surroundings(pack: SimpleNamespace) -> None:
    assert pack.pictures.contrast(pair(pack)) == pytest.approx(0.5, abs=1e-5)
    assert pack.pictures.contrast(pair(pack, 0.3, 0.3)) == pytest.approx(0, abs=1e-5)
    image = torch.rand(1, 8, 8, 3)
    for flat in (torch.zeros(8, 8), torch.ones(8, 8)):
        (only,) = pack.pictures.pairs_of([image], [flat])
        assert pack.pictures.contrast(only) is None


@pytest.mark.parametrize("pixels", [0, 1, 4])
def test_a_grown_mask_has_all_that_is_near(pack: SimpleNamespace, pixels: int) -> None:
    mask = torch.rand((17, 11), generator=generator()) > 0.97
    near = torch.zeros_like(mask)
    for row, column in mask.nonzero().tolist():
        top, left = max(0, row - pixels), max(0, column - pixels)
        near[top : row + pixels + 1, left : column + pixels + 1] = True
    grown = pack.pictures.grown(mask.float()[None, None], pixels)
    assert torch.equal(grown[0, 0], near.float())


def test_masks_follow_their_images(pack: SimpleNamespace) -> None:
    batches = [torch.rand(2, 16, 24, 3), torch.rand(1, 32, 32, 4)]
    found = pack.pictures.pairs_of(batches, [square()])
    assert [tuple(mask.shape) for _, mask in found] == [(1, 1, 16, 24)] * 2 + [(1, 1, 32, 32)]
    with pytest.raises(ValueError, match="2 masks for 3 images"):
        pack.pictures.pairs_of(batches, [torch.zeros(2, 8, 8)])


def plain_image(width: int, height: int, colour: int, batch_size: int = 1) -> dict[str, Any]:
    return node("EmptyImage", width=width, height=height, batch_size=batch_size, color=colour)


@pytest.fixture
def folder(served: ComfyHost, tmp_path: Path) -> str:
    """Three masks in the input folder."""
    root = served.input / tmp_path.name
    root.mkdir()
    for number in (1, 2, 3):
        write_mask(root / f"m{number}.png", (slice(8, 32), slice(8, 8 + 8 * number)))
    return root.name


def list_prompt(folder: str) -> Prompt:
    """Masks of a folder as a list, and each as an image: a white lesion, so of full contrast."""
    inputs = {"folder": folder, "subfolders": False, "start": 0, "count": 0}
    return {
        "load": node("SiameseLoadMaskFolder", **inputs),
        "image": node("MaskToImage", mask=["load", 0]),
    }


def test_overlay_draws_on_every_image(served: ComfyHost) -> None:
    prompt = {
        "3": node("LoadImageMask", image="a.png", channel="red"),
        "image": plain_image(128, 96, 0x808080, batch_size=2),
        "draw": node(
            "SiameseOverlay", image=["image", 0], mask=["3", 0], colour="green", outline=3, tint=0.2
        ),
        "show": node("PreviewImage", images=["draw", 0]),
    }
    first, second = images(served, prompt)
    assert first.shape == (96, 128, 3)
    assert np.array_equal(first, second)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) == 3  # ground, tint, outline


@pytest.mark.parametrize(
    ("with_masks", "columns", "shape"),
    [(False, 2, (2, 2)), (False, 0, (2, 2)), (True, 1, (3, 2)), (True, 9, (1, 6))],
)
def test_a_sheet_holds_all_images_of_a_list(
    served: ComfyHost, folder: str, with_masks: bool, columns: int, shape: tuple[int, int]
) -> None:
    prompt = list_prompt(folder)
    masks = {"mask": ["load", 0]} if with_masks else {}
    prompt["sheet"] = node(
        "SiameseContactSheet", image=["image", 0], columns=columns, cell_size=40, **masks
    )
    prompt["show"] = node("PreviewImage", images=["sheet", 0])
    (found,) = images(served, prompt)
    rows, cells = shape
    gaps = cells // 2 if with_masks else cells
    assert found.shape == (rows * 48 + 8, cells * 40 + 8 * (gaps + 1), 3)


def filter_prompt(folder: str, **settings: Any) -> Prompt:
    """Saves what stays."""
    prompt = list_prompt(folder)
    prompt["filter"] = node(
        "SiameseFilterPairs", image=["image", 0], mask=["load", 0], stem=["load", 1],
        **{"minimum": 0.03, **settings},
    )  # fmt: skip
    prompt["save"] = node(
        "SiameseSavePairs", image=["filter", 0], mask=["filter", 1], stem=["filter", 2],
        folder=f"filtered {folder}", prompt="",
    )  # fmt: skip
    return prompt


def test_pairs_with_contrast_stay_and_keep_their_names(served: ComfyHost, folder: str) -> None:
    assert texts(served, filter_prompt(folder)) == ["Kept 3 of 3 pairs, dropped 0"]
    saved = (served.output / f"filtered {folder}" / "images").iterdir()
    assert sorted(path.stem for path in saved) == ["m1", "m2", "m3"]


def test_a_stem_names_each_image_of_its_batch(served: ComfyHost, folder: str) -> None:
    prompt = filter_prompt(folder)
    prompt["new"] = augment_prompt(variants=2)["new"]
    prompt["new"]["inputs"]["mask"] = ["load", 0]
    prompt["image"]["inputs"]["mask"] = ["new", 0]
    prompt["filter"]["inputs"]["mask"] = ["new", 0]
    assert texts(served, prompt) == ["Kept 6 of 6 pairs, dropped 0"]
    saved = (served.output / f"filtered {folder}" / "images").iterdir()
    assert sorted(path.stem for path in saved) == ["m1", "m1_2", "m2", "m2_2", "m3", "m3_2"]


def test_the_filter_says_what_it_dropped(served: ComfyHost, folder: str) -> None:
    write_mask(served.input / folder / "m4.png", (slice(0, 0), slice(0, 0)))
    others = served.input / f"others {folder}"
    shutil.copytree(served.input / folder, others)
    write_mask(others / "m2.png", (slice(48, 60), slice(40, 60)))  # not where the mask says
    prompt = filter_prompt(folder)
    prompt["others"] = list_prompt(others.name)["load"]
    prompt["image"]["inputs"]["mask"] = ["others", 0]
    (text,) = texts(served, prompt)
    assert text == (
        "Kept 3 of 4 pairs, dropped 1 with contrast below 0.03: m2 (0.000); 1 kept without a "
        "measure, their masks are empty or full"
    )
    saved = (served.output / f"filtered {folder}" / "images").iterdir()
    assert sorted(path.stem for path in saved) == ["m1", "m3", "m4"]


@pytest.mark.usefixtures("progress")
def test_an_image_that_is_no_number_is_dropped_and_counted() -> None:
    from siamese_diffusion.nodes.picture_nodes import SiameseFilterPairs

    image = torch.rand((2, 64, 64, 3), generator=generator())
    image[1, 0, 0] = torch.nan
    found = SiameseFilterPairs.execute([image], [square()], [0.0], ["a", "b"])
    images, _, stems, text = found.result
    assert (len(images), stems) == (1, ["a"])
    assert text == "Kept 1 of 2 pairs, dropped 1 with contrast below 0: b (nan)"


def test_nothing_left_is_an_error(served: ComfyHost, folder: str) -> None:
    prompt = filter_prompt(folder)
    prompt["plain"] = plain_image(64, 64, 0x808080, batch_size=3)
    prompt["filter"]["inputs"]["image"] = ["plain", 0]
    with pytest.raises(HostError, match=r"Kept 0 of 3 pairs.*m1 \(0.000\).*Nothing is left"):
        served.run(prompt)


def test_counts_that_do_not_fit_are_an_error(served: ComfyHost, folder: str) -> None:
    prompt = filter_prompt(folder)
    prompt["plain"] = plain_image(64, 64, 0x808080, batch_size=2)
    prompt["filter"]["inputs"]["image"] = ["plain", 0]
    with pytest.raises(HostError, match="3 masks for 2 images"):
        served.run(prompt)
    prompt["filter"]["inputs"]["mask"] = ["one", 0]
    prompt["one"] = node("SolidMask", value=1.0, width=8, height=8)
    with pytest.raises(HostError, match="3 stems for 2 images"):
        served.run(prompt)
