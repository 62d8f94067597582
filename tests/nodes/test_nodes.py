"""The nodes in a real ComfyUI server: normal use, errors, interrupt and cache."""

from __future__ import annotations

import re
import urllib.request
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from siamese_diffusion.models.kinds import UNET
from siamese_diffusion.models.metadata import SiameseMetadata
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import read_weights, write_weights
from siamese_diffusion.tools.comfy_host import PACK_NAME, ComfyHost, HostError
from support.seeded_weights import made_up_bundle
from support.waiting import queue_until
from support.workflow_prompts import (
    BASE,
    MASK,
    MERGED,
    Prompt,
    bundle_prompt,
    image,
    images,
    merged_prompt,
    node,
    texts,
    write_mask,
)

pytest_plugins = ["support.served_models"]


def with_apply_mask(
    prompt: Prompt, batch_size: int = 1, strength: float = 1.0, **settings: Any
) -> Prompt:
    """The prompt with SiameseApplyMask and the core KSampler in place of SiameseSampler."""
    sampler = prompt["6"]["inputs"]
    prompt["apply"] = node(
        "SiameseApplyMask", strength=strength, start_percent=0.0, end_percent=1.0, **settings,
        **{name: sampler[name] for name in ("positive", "negative", "control_net", "mask")},
    )  # fmt: skip
    prompt["empty"] = node("EmptyLatentImage", width=64, height=64, batch_size=batch_size)
    prompt["6"] = node(
        "KSampler", positive=["apply", 0], negative=["apply", 1], latent_image=["empty", 0],
        scheduler="ddim_uniform", denoise=1.0,
        **{name: sampler[name] for name in ("model", "seed", "steps", "cfg", "sampler_name")},
    )  # fmt: skip
    return prompt


def two_masks(prompt: Prompt) -> Prompt:
    """The prompt with a batch of two masks: the file's, and its upper half alone."""
    prompt["whole"] = node("MaskToImage", mask=["3", 0])
    prompt["half"] = node("MaskToImage", mask=["upper", 0])
    prompt["upper"] = node(
        "MaskComposite", destination=["3", 0], source=["black", 0], x=0, y=24, operation="multiply"
    )
    prompt["black"] = node("SolidMask", value=0.0, width=64, height=40)
    prompt["batch"] = node("ImageBatch", image1=["whole", 0], image2=["half", 0])
    prompt["masks"] = node("ImageToMask", image=["batch", 0], channel="red")
    for inputs in (entry["inputs"] for entry in prompt.values()):
        if inputs.get("mask") == ["3", 0] and "control_net" in inputs:
            inputs["mask"] = ["masks", 0]
    return prompt


# Description


def test_every_input_and_output_is_explained(host: ComfyHost) -> None:
    ours = {k: v for k, v in host.object_info().items() if k.startswith("Siamese")}
    assert ours
    for name, info in ours.items():
        assert info["category"] == "Siamese-Diffusion"
        assert info["description"]
        assert info["display_name"].startswith("Siamese ")
        assert all(info["output_tooltips"]), name
        page = f"{host.url}/extensions/{PACK_NAME}/docs/{name}.md"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(page) as answer:
            help_page = answer.read().decode()
        assert f"# {info['display_name']}" in help_page
        for kind in set(info["input"]) & {"required", "optional"}:
            inputs = info["input"][kind]
            assert [key for key, spec in inputs.items() if not spec[1].get("tooltip")] == [], name
            assert [key for key in inputs if f"`{key}`" not in help_page] == [], name


@pytest.mark.parametrize("name", ["SiameseSampler", "SiameseSynthesizeDataset"])
def test_sampling_starts_from_the_published_settings(host: ComfyHost, name: str) -> None:
    inputs = host.object_info()[name]["input"]["required"]
    defaults = {key: spec[1].get("default", spec[0][0]) for key, spec in inputs.items()}
    assert (defaults["steps"], defaults["cfg"]) == (50, 9.0)
    assert (defaults["sampler_name"], defaults["scheduler"]) == ("ddim", "ddim_published")


# Images


def test_base_and_bundle_give_the_merged_checkpoints_image(served: ComfyHost) -> None:
    image_of_bundle = image(served, bundle_prompt())
    assert image_of_bundle.shape == (64, 64, 3)
    assert np.array_equal(image_of_bundle, image(served, merged_prompt()))


def test_apply_mask_and_the_core_sampler_give_the_same_image(served: ComfyHost) -> None:
    ours = image(served, bundle_prompt(scheduler="ddim_uniform"))
    assert np.array_equal(image(served, with_apply_mask(bundle_prompt())), ours)
    free = image(served, with_apply_mask(bundle_prompt(), strength=0.0))
    assert not np.array_equal(free, ours)


@pytest.mark.parametrize("cfg", [1.0, 9.0])
def test_each_mask_of_a_batch_makes_an_image(served: ComfyHost, cfg: float) -> None:
    found = []
    for count in (1, 2, 3):
        prompt = bundle_prompt(cfg=cfg)
        prompt["3"] = node(
            "SiameseRandomMask", seed=1, width=96, height=64, count=count, lesions=1,
            smallest=5.0, largest=30.0,
        )  # fmt: skip
        found.append(images(served, prompt))
    assert [len(batch) for batch in found] == [1, 2, 3]
    assert {picture.shape for batch in found for picture in batch} == {(64, 96, 3)}
    # The same masks and the same noise in a larger batch: the same, but for rounding.
    for batch in found[:2]:
        for alone, together in zip(batch, found[2], strict=False):
            assert np.abs(alone.astype(int) - together).max() <= 1
    assert not np.array_equal(found[2][0], found[2][1])


def test_empty_and_full_masks_are_masks(served: ComfyHost) -> None:
    """Each has an effect of its own: an empty mask is a hint of zeros, not the absence of one."""
    found = []
    for white in (slice(0, 0), slice(0, 64)):
        write_mask(served.input / "flat.png", (white, white))
        prompt = with_apply_mask(bundle_prompt(steps=1))
        prompt["3"]["inputs"]["image"] = "flat.png"
        found.append(image(served, prompt))
    free = image(served, with_apply_mask(bundle_prompt(steps=1), strength=0.0))
    for one, other in combinations((*found, free), 2):
        assert (one != other).mean() > 0.1  # the same prompt twice is equal


def test_the_image_has_the_size_of_the_mask_or_the_size_asked_for(served: ComfyHost) -> None:
    write_mask(served.input / "odd.png", (slice(0, 20), slice(0, 30)), width=90, height=50)
    prompt = bundle_prompt(steps=1)
    prompt["3"]["inputs"]["image"] = "odd.png"
    with pytest.raises(HostError, match=r"90x50 pixels.*Set width 88 and height 48"):
        served.run(prompt)
    prompt["6"]["inputs"] |= {"width": 90, "height": 48}
    with pytest.raises(HostError, match=r"width is 90 pixels.*Set width 88 and height 48"):
        served.run(prompt)
    prompt["6"]["inputs"] |= {"width": 88, "height": 48}
    assert image(served, prompt).shape == (48, 88, 3)


def test_counts_that_do_not_fit_are_an_error(served: ComfyHost) -> None:
    prompt = two_masks(with_apply_mask(bundle_prompt(), batch_size=3))
    with pytest.raises(HostError, match="2 masks for 3 latents: give one mask for all"):
        served.run(prompt)


def test_threshold_and_invert_turn_any_mask_into_the_same_hint(served: ComfyHost) -> None:
    expected = image(served, with_apply_mask(bundle_prompt()))
    prompt = with_apply_mask(bundle_prompt(), threshold=0.2, invert=True)
    # White becomes 0.1, black 0.6: the lesion is what is not above 0.2.
    prompt["dark"] = node("SolidMask", value=0.5, width=64, height=64)
    prompt["light"] = node("SolidMask", value=0.6, width=64, height=64)
    prompt["less"] = node(
        "MaskComposite", destination=["3", 0], source=["dark", 0], x=0, y=0, operation="multiply"
    )
    prompt["grey"] = node(
        "MaskComposite", destination=["light", 0], source=["less", 0], x=0, y=0,
        operation="subtract",
    )  # fmt: skip
    prompt["apply"]["inputs"]["mask"] = ["grey", 0]
    assert np.array_equal(image(served, prompt), expected)


def test_a_palette_image_is_a_mask_with_colours(served: ComfyHost) -> None:
    expected = image(served, with_apply_mask(bundle_prompt()))
    prompt = with_apply_mask(bundle_prompt())
    del prompt["apply"]["inputs"]["mask"]
    with pytest.raises(HostError, match="Neither of 'mask' and 'palette' connected"):
        served.run(prompt)
    prompt["palette"] = node("LoadImage", image=MASK)
    prompt["apply"]["inputs"]["palette"] = ["palette", 0]
    assert np.allclose(image(served, prompt).astype(int), expected, atol=1)  # rounding
    prompt["apply"]["inputs"]["mask"] = ["3", 0]
    with pytest.raises(HostError, match="Both of 'mask' and 'palette' connected"):
        served.run(prompt)


def test_an_image_guides_as_much_as_its_weight(served: ComfyHost) -> None:
    mask_branch = image(served, with_apply_mask(bundle_prompt()))
    found = []
    for weight in (0.0, 0.5, 1.0):
        prompt = with_apply_mask(bundle_prompt(), image_weight=weight, image=["photo", 0])
        prompt["photo"] = node("EmptyImage", width=80, height=48, batch_size=1, color=0x8040C0)
        found.append(image(served, prompt))
    assert np.array_equal(found[0], mask_branch)
    assert not np.array_equal(found[1], mask_branch)
    assert not np.array_equal(found[2], found[1])


def test_decoder_strength_goes_from_the_base_to_the_trained_decoder(served: ComfyHost) -> None:
    found = []
    for strength in (0.0, 0.5, 1.0):
        prompt = bundle_prompt()
        prompt["2"]["inputs"]["decoder_strength"] = strength
        found.append(image(served, prompt))
    base = bundle_prompt(model=["1", 0])
    assert np.array_equal(found[0], image(served, base))
    assert np.array_equal(found[2], image(served, bundle_prompt()))
    assert not np.array_equal(found[1], found[0])
    assert not np.array_equal(found[1], found[2])


# What a file is


def info_prompt(file_name: str) -> Prompt:
    return {"1": node("SiameseModelInfo", file_name=file_name)}


def test_model_info_tells_all_that_a_bundle_knows(served: ComfyHost) -> None:
    metadata = SiameseMetadata(
        recipe=RECIPES["adaptive"],
        resolution=(384, 256),
        step=3000,
        base_hash="f" * 64,
        mask_classes={"0": "background", "1": "polyp"},
    )
    base = read_weights(served.models / "checkpoints" / BASE).tensors
    path = served.models / "controlnet" / "told.safetensors"
    write_weights(path, made_up_bundle(base), metadata.to_strings())
    (text,) = texts(served, info_prompt(f"controlnet/{path.name}"))
    for line in (
        "kind: a Siamese bundle",
        "with the node 'Siamese Bundle Loader'",
        "recipe: adaptive (image_hint image",
        "resolution: 384x256",
        'mask classes: {"0": "background", "1": "polyp"}',
        f"base model: SHA-256 {'f' * 64}",
        "step: 3000",
        "hint channels: 3",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        (f"checkpoints/{MERGED}", "kind: a merged Siamese.*metadata: none.*trained decoder: "),
        (f"checkpoints/{BASE}", "kind: a Stable Diffusion 1.x checkpoint without Siamese"),
    ],
)
def test_model_info_tells_what_keys_say(served: ComfyHost, file_name: str, expected: str) -> None:
    (text,) = texts(served, info_prompt(file_name))
    assert re.search(expected, text, re.DOTALL)


def test_model_info_of_a_damaged_file_is_an_error(served: ComfyHost) -> None:
    path = served.models / "controlnet" / "damaged.safetensors"
    path.write_bytes(b"not a model")
    with pytest.raises(HostError, match=r"damaged.safetensors: not a safetensors file"):
        served.run(info_prompt(f"controlnet/{path.name}"))


# Running


def test_an_interrupt_ends_sampling_and_the_next_run_is_whole(served: ComfyHost) -> None:
    expected = image(served, bundle_prompt(seed=5))
    running = queue_until(served, bundle_prompt(steps=1000), "progress", "6")
    served.interrupt()
    with pytest.raises(HostError, match="interrupted at SiameseSampler"):
        served.wait(running)
    assert np.array_equal(image(served, bundle_prompt(seed=5)), expected)


def cached(history: dict[str, Any]) -> set[str]:
    (nodes,) = (
        detail["nodes"]
        for event, detail in history["status"]["messages"]
        if event == "execution_cached"
    )
    return set(nodes)


def test_a_second_run_comes_from_the_cache_until_the_bundle_changes(served: ComfyHost) -> None:
    path = served.models / "controlnet" / "retrained.safetensors"
    trained = made_up_bundle(read_weights(served.models / "checkpoints" / BASE).tensors)
    write_weights(path, trained, {})
    prompt = bundle_prompt()
    prompt["2"]["inputs"]["bundle_name"] = path.name
    served.run(prompt)
    assert cached(served.run(prompt)) >= {"1", "2", "6"}
    write_weights(path, {**trained, f"{UNET}out.2.bias": torch.ones(4)}, {})
    again = cached(served.run(prompt))
    assert "1" in again
    assert not again & {"2", "6"}


def test_a_second_run_comes_from_the_cache_until_the_mask_folder_changes(served: ComfyHost) -> None:
    root = served.input / "cached masks"
    root.mkdir()
    write_mask(root / "m.png", (slice(0, 32), slice(0, 32)))
    prompt = {
        "load": node(
            "SiameseLoadMaskFolder", folder=root.name, subfolders=False, start=0, count=0
        ),
        "image": node("MaskToImage", mask=["load", 0]),
        "show": node("PreviewImage", images=["image", 0]),
    }  # fmt: skip
    served.run(prompt)
    assert cached(served.run(prompt)) >= {"load", "image"}
    write_mask(root / "m.png", (slice(0, 8), slice(0, 8)))
    assert not cached(served.run(prompt)) & {"load", "image"}
