"""Looking at pairs: the functions alone, and the nodes in a real server."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from siamese_diffusion.common.scores import Score, write_scores
from siamese_diffusion.tools.comfy_host import ComfyHost, HostError
from support.mask_inputs import augment_prompt, list_prompt, square
from support.workflow_prompts import Prompt, images, node, texts, write_mask

pytest_plugins = ["support.comfy_inside", "support.served_models"]


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


def test_masks_follow_their_images(pack: SimpleNamespace) -> None:
    batches = [torch.rand(2, 16, 24, 3), torch.rand(1, 32, 32, 4)]
    found = pack.pictures.pairs_of(batches, [square()])
    assert [tuple(mask.shape) for _, mask in found] == [(1, 1, 16, 24)] * 2 + [(1, 1, 32, 32)]
    with pytest.raises(ValueError, match="2 masks for 3 images"):
        pack.pictures.pairs_of(batches, [torch.zeros(2, 8, 8)])


def plain_image(width: int, height: int, colour: int, batch_size: int = 1) -> dict[str, Any]:
    return node("EmptyImage", width=width, height=height, batch_size=batch_size, color=colour)


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
    served: ComfyHost, three_masks: str, with_masks: bool, columns: int, shape: tuple[int, int]
) -> None:
    prompt = list_prompt(three_masks)
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


def test_pairs_with_contrast_stay_and_keep_their_names(served: ComfyHost, three_masks: str) -> None:
    assert texts(served, filter_prompt(three_masks)) == ["Kept 3 of 3 pairs, dropped 0"]
    saved = (served.output / f"filtered {three_masks}" / "images").iterdir()
    assert sorted(path.stem for path in saved) == ["m1", "m2", "m3"]


def test_a_stem_names_each_image_of_its_batch(served: ComfyHost, three_masks: str) -> None:
    prompt = filter_prompt(three_masks)
    prompt["new"] = augment_prompt(variants=2)["new"]
    prompt["new"]["inputs"]["mask"] = ["load", 0]
    prompt["image"]["inputs"]["mask"] = ["new", 0]
    prompt["filter"]["inputs"]["mask"] = ["new", 0]
    assert texts(served, prompt) == ["Kept 6 of 6 pairs, dropped 0"]
    saved = (served.output / f"filtered {three_masks}" / "images").iterdir()
    assert sorted(path.stem for path in saved) == ["m1", "m1_2", "m2", "m2_2", "m3", "m3_2"]


def test_the_filter_says_what_it_dropped(served: ComfyHost, three_masks: str) -> None:
    write_mask(served.input / three_masks / "m4.png", (slice(0, 0), slice(0, 0)))
    others = served.input / f"others {three_masks}"
    shutil.copytree(served.input / three_masks, others)
    write_mask(others / "m2.png", (slice(48, 60), slice(40, 60)))  # not where the mask says
    prompt = filter_prompt(three_masks)
    prompt["others"] = list_prompt(others.name)["load"]
    prompt["image"]["inputs"]["mask"] = ["others", 0]
    (text,) = texts(served, prompt)
    assert text == (
        "Kept 3 of 4 pairs, dropped 1 with contrast below 0.03: m2 (0.000); 1 kept unchecked, "
        "their masks are empty or full"
    )
    saved = (served.output / f"filtered {three_masks}" / "images").iterdir()
    assert sorted(path.stem for path in saved) == ["m1", "m3", "m4"]


def test_nothing_left_is_an_error(served: ComfyHost, three_masks: str) -> None:
    prompt = filter_prompt(three_masks)
    prompt["plain"] = plain_image(64, 64, 0x808080, batch_size=3)
    prompt["filter"]["inputs"]["image"] = ["plain", 0]
    with pytest.raises(HostError, match=r"Kept 0 of 3 pairs.*m1 \(0.000\).*Nothing is left"):
        served.run(prompt)


def test_counts_that_do_not_fit_are_an_error(served: ComfyHost, three_masks: str) -> None:
    prompt = filter_prompt(three_masks)
    prompt["plain"] = plain_image(64, 64, 0x808080, batch_size=2)
    prompt["filter"]["inputs"]["image"] = ["plain", 0]
    with pytest.raises(HostError, match="3 masks for 2 images"):
        served.run(prompt)
    prompt["filter"]["inputs"]["mask"] = ["one", 0]
    prompt["one"] = node("SolidMask", value=1.0, width=8, height=8)
    with pytest.raises(HostError, match="3 stems for 2 images"):
        served.run(prompt)


def write_scores_file(served: ComfyHost, name: str, **agreement: float) -> str:
    scores = [
        Score("new", f"../out/images/{stem}.png", "", a, None) for stem, a in agreement.items()
    ]
    write_scores(served.input / f"{name}.jsonl", scores)
    return f"{name}.jsonl"


def test_scores_of_an_evaluation_are_a_second_measure(served: ComfyHost, three_masks: str) -> None:
    name = write_scores_file(served, f"scores {three_masks}", m1=0.3, m2=0.7, m3=0.99)
    prompt = filter_prompt(three_masks, scores=name, lowest=0.5, highest=0.95)
    assert texts(served, prompt) == [
        "Kept 1 of 3 pairs, dropped 2 with agreement outside 0.5 to 0.95: m1 (0.300), m3 (0.990)"
    ]
    folder = served.output / f"filtered {three_masks}" / "images"
    assert [path.stem for path in folder.iterdir()] == ["m2"]
    # Written again, the file is read again.
    write_scores_file(served, f"scores {three_masks}", m1=0.6, m2=0.7, m3=0.8)
    assert texts(served, prompt) == ["Kept 3 of 3 pairs, dropped 0"]


def test_scores_that_do_not_fit_are_an_error(served: ComfyHost, three_masks: str) -> None:
    name = write_scores_file(served, f"few {three_masks}", m1=0.6, m3=0.7)
    with pytest.raises(HostError, match="no score for 1 of 3 pairs: m2"):
        served.run(filter_prompt(three_masks, scores=name))
    with pytest.raises(HostError, match=r"No file 'none\.jsonl' in ComfyUI's input folder"):
        served.run(filter_prompt(three_masks, scores="none.jsonl"))
    with pytest.raises(HostError, match="expected a name or a relative path"):
        served.run(filter_prompt(three_masks, scores="../secret.jsonl"))


def test_a_score_is_found_by_the_end_of_its_path(pack: SimpleNamespace, tmp_path: Path) -> None:
    targets = {"out/a/images/1.png": 0.1, "out/a/images/deep/1.png": 0.2, "2.png": 0.3}
    path = tmp_path / "scores.jsonl"
    write_scores(path, [Score("new", target, "", value, None) for target, value in targets.items()])
    assert pack.pair_scores.agreements(path, ["deep/1", "2", "images/1"]) == [0.2, 0.3, 0.1]
    with pytest.raises(ValueError, match="several scores for 1"):
        pack.pair_scores.agreements(path, ["1", "2"])
