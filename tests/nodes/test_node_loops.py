"""Nodes of many masks and images, called directly: progress, interrupts, layouts, bad values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.mask_inputs import generator, square
from support.workflow_prompts import write_mask
from torch import Tensor

pytestmark = pytest.mark.slow  # whole samplings
pytest_plugins = ["support.comfy_inside", "support.served_models"]


class Progress(list[tuple[int, int]]):
    """What a node told the page: (done, of how many)."""


@pytest.fixture
def progress(pack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Progress]:
    """ComfyUI's own hooks, without a server behind them."""
    import comfy.utils

    told = Progress()
    # Newer hosts leave out what comes too soon after what they told last.
    for limit in ("PROGRESS_THROTTLE_MIN_INTERVAL", "PROGRESS_THROTTLE_MIN_PERCENT"):
        monkeypatch.setattr(comfy.utils, limit, 0, raising=False)
    comfy.utils.set_progress_bar_global_hook(
        lambda done, total, *_args, **_others: told.append((done, total))
    )
    yield told
    comfy.utils.set_progress_bar_global_hook(None)


def run_node(name: str, mask: Tensor | None = None) -> Any:
    """Run one of our nodes on three images, and as many masks unless others are given."""
    from siamese_diffusion.nodes import mask_nodes, picture_nodes

    image = torch.rand((3, 16, 16, 3), generator=generator())
    mask = square()[None].expand(3, -1, -1) if mask is None else mask
    one = {"image": [image], "mask": [mask]}
    inputs: dict[str, dict[str, Any]] = {
        "SiameseOverlay": {
            **{"image": image, "mask": mask, "colour": "red", "outline": 1, "tint": 0.1}
        },
        "SiameseContactSheet": {**one, "columns": [0], "cell_size": [16]},
        "SiameseFilterPairs": {**one, "minimum": [0.0], "stem": ["pair"]},
        "SiameseAugmentMask": {
            **{
                "mask": mask if mask.ndim == 2 else mask[:1],
                "seed": 0,
                "variants": 3,
                "flip": True,
            },
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


@pytest.fixture
def sources(pack: SimpleNamespace, model: Any, control: Any) -> Any:
    prompts = [[[torch.ones(1, 77, 768), {}]] for _ in range(2)]
    return pack.sampling.Sources(model, *prompts, control)


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((50, "ddim", "ddim_published"), 50),
        ((30, "ddim", "ddim_published"), 31),
        ((7, "ddim", "ddim_published"), 8),
        ((30, "ddim", "ddim_uniform"), 31),
        ((7, "euler", "karras"), 7),
        ((7, "dpm_2", "normal"), 7),
    ],
)
def test_progress_of_sampling_ends_with_the_last_step(
    pack: SimpleNamespace, sources: Any, progress: Progress, tmp_path: Path, asked: Any, made: int
) -> None:
    """One call for each step that the sampler makes, the last of them at the bar's end."""
    steps, sampler, scheduler = asked
    settings = pack.sampling.Settings(steps, 1.0, sampler, scheduler, seed=0)
    pack.sampling.sample_masks(sources, square(16), (0, 0), settings)
    assert progress == [(step, made) for step in range(1, made + 1)]
    progress.clear()
    masks = {name: tmp_path / f"{name}.png" for name in "ab"}
    for path in masks.values():
        write_mask(path, (slice(4, 8), slice(4, 8)), width=16, height=16)
    pairs = pack.pair_folder.PairFolder(tmp_path / "pairs")
    vae = SimpleNamespace(decode=lambda _: torch.zeros(1, 16, 16, 3))
    work = pack.synthesize.Work(pairs, sources, vae, (0, 0), settings, prompt="")
    assert len([*work.run(pack.synthesize.plan(masks, 1))]) == 2
    assert progress == [(step, 2 * made) for step in range(1, 2 * made + 1)]


@pytest.mark.usefixtures("progress")
@pytest.mark.parametrize(
    "name", ["SiameseOverlay", "SiameseContactSheet", "SiameseFilterPairs", "SiameseAugmentMask"]
)
def test_nodes_take_masks_in_every_layout(name: str) -> None:
    masks = square().expand(3, -1, -1)
    expected = run_node(name, masks).result[0]
    layouts = [masks[:, None], masks[:1], masks[:1, None], masks[0]]
    for layout in layouts:
        found = run_node(name, layout).result[0]
        first, second = (
            list(each) if isinstance(each, list) else [each] for each in (expected, found)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), layout.shape


@pytest.mark.usefixtures("progress")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (31, 31)], ids=["beyond", "in the lesion"])
def test_an_image_that_is_not_finite_is_dropped_and_counted(
    value: float, place: tuple[int, int]
) -> None:

    from siamese_diffusion.nodes.picture_nodes import SiameseFilterPairs

    image = torch.rand((2, 64, 64, 3), generator=generator())
    image[1][place] = value
    found = SiameseFilterPairs.execute([image], [square()], [0.0], ["a", "b"])
    images, _, stems, text = found.result
    assert (len(images), stems) == (1, ["a"])
    assert text == "Kept 1 of 2 pairs, dropped 1 with contrast below 0: b (nan)"
