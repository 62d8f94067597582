"""What newer ComfyUIs do: half-precision images, several devices, other errors of full memory."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from siamese_diffusion.models.weights import WeightsError
from siamese_diffusion.tools.comfy_host import ComfyHost
from support.control_inputs import Sample, masks, photos, random
from torch import Tensor

pytest_plugins = ["support.comfy_inside", "support.control_sampling"]
pytestmark = pytest.mark.usefixtures("inference")


def on_other_device(control: Any) -> Any:
    """What the host samples with on a second device: its own deep clone, or one made likewise."""
    import comfy.model_management
    import comfy.model_patcher

    device = torch.device("cpu")
    if hasattr(control, "deepclone_multigpu"):
        return control.deepclone_multigpu(device)
    clone = control.copy()
    clone.control_model = copy.deepcopy(clone.control_model)
    offload = comfy.model_management.unet_offload_device()
    clone.control_model_wrapped = comfy.model_patcher.ModelPatcher(
        clone.control_model, load_device=device, offload_device=offload
    )
    return clone


def test_a_clone_for_another_device_gives_the_same_and_shares_no_weights(
    control: Any, sample: Sample
) -> None:
    expected = sample(control, masks(1))
    clone = on_other_device(control)
    assert type(clone) is type(control)
    ours, theirs = (set(map(id, each.control_model.parameters())) for each in (control, clone))
    assert ours & theirs == set()
    assert torch.equal(sample(clone, masks(1)), expected)
    for weight in clone.control_model.parameters():
        weight.zero_()
    assert torch.equal(sample(control, masks(1)), expected)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_masks_and_images_in_half_precision_are_taken(
    pack: SimpleNamespace, control: Any, sample: Sample, kind: torch.dtype
) -> None:
    """With --fp16-intermediates every IMAGE and MASK is in float16."""
    from siamese_diffusion.nodes import mask_nodes, picture_nodes

    mask, image = masks(1), photos(1)
    assert torch.equal(sample(control, mask.to(kind)), sample(control, mask))
    soft = mask_nodes.SiameseSoftenMask.execute(mask.to(kind), 4).result[0]
    assert torch.equal(soft, mask_nodes.SiameseSoftenMask.execute(mask, 4).result[0])
    changes = {"flip": True, "rotation": 20.0, "scale": 0.2, "elastic": 0.5}
    augmented: list[Tensor] = [
        mask_nodes.SiameseAugmentMask.execute(mask=one, seed=1, variants=2, **changes).result[0]
        for one in (mask, mask.to(kind))
    ]
    assert torch.equal(*augmented)
    drawn, exact = (
        picture_nodes.SiameseOverlay.execute(one, mask.to(one), "green", 2, 0.15).result[0]
        for one in (image.to(kind), image)
    )
    assert torch.allclose(drawn.float(), exact, atol=0.01)
    page = picture_nodes.SiameseContactSheet.execute([image.to(kind)], [0], [32], [mask.to(kind)])
    assert page.result[0].shape == (1, 32 + 16, 64 + 16, 3)
    kept = picture_nodes.SiameseFilterPairs.execute([image.to(kind)], [mask.to(kind)], [0.0], ["a"])
    assert kept.result[2] == ["a"]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_an_image_in_half_precision_guides_as_its_values_do(
    pack: SimpleNamespace, control: Any, model: Any, kind: torch.dtype
) -> None:
    image = photos(1).to(kind)

    def sampled(image: Tensor | None) -> Tensor:
        positive, negative = ([[random(1, 77, 768, seed=seed), {}]] for seed in (1, 2))
        pair = pack.conditioning_nodes.SiameseApplyMask.execute(
            positive=positive, negative=negative, control_net=control, mask=masks(1), image=image
        ).result
        settings = pack.sampling.Settings(2, 7.0, "ddim", "ddim_published", seed=0)
        return pack.sampling.sample(model, random(1, 4, 4, 4), *pair, settings)

    found = sampled(image)
    assert torch.equal(found, sampled(image.float()))
    assert not torch.allclose(found, sampled(None))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_pairs_in_half_precision_are_saved(
    pack: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: torch.dtype
) -> None:
    import folder_paths
    from siamese_diffusion.nodes.dataset_nodes import SiameseSavePairs

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setattr(SiameseSavePairs, "hidden", None)
    image, mask = photos(1).to(kind), masks(1)
    inputs = {"image": image, "mask": mask.to(kind), "stem": "a", "folder": "pairs", "prompt": ""}
    SiameseSavePairs.execute(**inputs)
    with Image.open(tmp_path / "pairs/images/a.png") as file:
        assert np.array_equal(np.asarray(file), np.rint(image[0].double().numpy() * 255))
    with Image.open(tmp_path / "pairs/masks/a.png") as file:
        assert np.array_equal(np.asarray(file), mask[0].numpy() * 255)


@pytest.mark.parametrize(("full", "expected"), [(True, RuntimeError), (False, WeightsError)])
def test_memory_that_is_full_is_not_the_files_fault(
    pack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, full: bool, expected: type[Exception]
) -> None:
    import comfy.model_management
    import comfy.sd

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("an accelerator's own words")

    monkeypatch.setattr(comfy.sd, "load_state_dict_guess_config", fail)
    monkeypatch.setattr(comfy.model_management, "is_oom", lambda _: full, raising=False)
    with pytest.raises(Exception, match="an accelerator's own words") as caught:
        pack.loader_nodes._load_base({}, "base.safetensors")
    assert caught.type is expected


def test_inputs_that_few_change_are_folded_away_where_the_host_can(
    pack: SimpleNamespace, host: ComfyHost
) -> None:
    from comfy_api.latest import io

    known = "advanced" in inspect.signature(io.Int.Input).parameters
    inputs = host.object_info()["SiameseApplyMask"]["input"]
    options = {**inputs["required"], **inputs["optional"]}
    folded = {name for name, (_, *more) in options.items() if more and more[0].get("advanced")}
    rare = {"start_percent", "end_percent", "threshold", "image_weight"}
    assert folded == (rare if known else set())
