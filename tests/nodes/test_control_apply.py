"""What a mask, or a mask and its image, put into the conditioning: strength, time, chains, sums."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from siamese_diffusion.benchmarks.sampling import _core_hint_block
from siamese_diffusion.models.kinds import Kind
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import StateDict
from support.control_inputs import ROUNDING, SIZE, Sample, masks, metadata, photos, random
from support.seeded_weights import made_up_bundle, relative_error, weight_file
from torch import Tensor

pytest_plugins = ["support.comfy_inside", "support.control_sampling"]
pytestmark = pytest.mark.usefixtures("inference")

LATENTS, CONTEXT = random(1, 4, SIZE // 8, SIZE // 8), random(1, 77, 768)

# What the mask does


def test_a_zero_initialised_controlnet_is_no_control(
    pack: SimpleNamespace, bundle: StateDict, sample: Sample
) -> None:
    zeros = {
        key: torch.zeros_like(value) if "zero_convs" in key or "middle_block_out" in key else value
        for key, value in bundle.items()
    }
    control = pack.control.load_control(weight_file(zeros, Kind.BUNDLE))
    assert torch.equal(sample(control, masks(1)), sample())


def test_strength_zero_is_no_control(control: Any, sample: Sample) -> None:
    assert torch.equal(sample(control, masks(1), strength=0.0), sample())


def test_another_mask_gives_another_image(control: Any, sample: Sample) -> None:
    first, second = (sample(control, mask[None]) for mask in masks(2))
    assert relative_error(first, sample()) > 0.01
    assert relative_error(first, second) > 0.01


def test_strength_and_range_change_the_image(control: Any, sample: Sample) -> None:
    whole, none = sample(control, masks(1)), sample()
    first_step = sample(control, masks(1), end_percent=0.6)
    second_step = sample(control, masks(1), start_percent=0.6)
    found = (whole, none, first_step, second_step, sample(control, masks(1), strength=0.5))
    for one, other in combinations(found, 2):
        assert relative_error(one, other) > 0.001


# In a chain of ControlNets


def conditionings() -> list[Any]:
    """Positive and negative, without a control."""
    return [[[random(1, 77, 768, seed=seed), {}]] for seed in (1, 2)]


def outputs(conditioning: Any, model: Any, percent: float = 0.5) -> list[Tensor] | None:
    """What the conditioning's controls give the UNet at that part of sampling; None: nothing."""
    chain, sampling = conditioning[0][1]["control"], model.get_model_object("model_sampling")
    chain.pre_run(model.model, sampling.percent_to_sigma)
    sigma = torch.tensor([sampling.percent_to_sigma(percent)])
    found = chain.get_control(LATENTS, sigma, {"c_crossattn": CONTEXT}, 1, {})
    chain.cleanup()
    return None if found is None else [*found["middle"], *found["output"]]


def assert_close(found: list[Tensor] | None, expected: list[Tensor]) -> None:
    assert found is not None
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < ROUNDING


def test_two_chained_controls_add_up(
    pack: SimpleNamespace, control: Any, sample: Sample, model: Any
) -> None:
    noise, prompt = random(1, 4, 4, 4), [[random(1, 77, 768), {}]]
    half = pack.conditioning.apply_mask(prompt, prompt, control, masks(1), strength=0.5)
    twice = pack.conditioning.apply_mask(*half, control, masks(1), strength=0.5)
    once = pack.conditioning.apply_mask(prompt, prompt, control, masks(1))
    settings = pack.sampling.Settings(2, 1.0, "ddim", "ddim_published", seed=0)
    found, expected = (
        pack.sampling.sample(model, noise, *conditioning, settings)
        for conditioning in (twice, once)
    )
    assert relative_error(found, expected) < ROUNDING


def test_the_second_part_begins_where_the_first_ends(
    pack: SimpleNamespace, control: Any, model: Any
) -> None:
    whole = pack.conditioning.apply_mask(*conditionings(), control, masks(1))
    first = pack.conditioning.apply_mask(*conditionings(), control, masks(1), end_percent=0.6)
    both = pack.conditioning.apply_mask(*first, control, masks(1), start_percent=0.6)
    assert outputs(first[0], model, percent=0.7) is None
    for percent in (0.2, 0.5, 0.7, 0.9):
        expected = outputs(whole[0], model, percent)
        assert expected is not None
        assert_close(outputs(both[0], model, percent), expected)


@pytest.fixture
def core_control(bundle: StateDict) -> Any:
    """ComfyUI's own ControlNet of the same size, with a hint network of its own."""
    import comfy.controlnet

    torch.manual_seed(0)
    control = weight_file(bundle, Kind.BUNDLE).control()
    rest = {key: v for key, v in control.items() if not key.startswith("input_hint_block.")}
    return comfy.controlnet.load_controlnet_state_dict({**rest, **_core_hint_block()})


@pytest.mark.parametrize("core_first", [True, False])
def test_a_core_controlnet_before_or_after_adds_up(
    pack: SimpleNamespace, control: Any, core_control: Any, model: Any, core_first: bool
) -> None:
    import nodes as host_nodes

    def with_mask(pair: Any) -> Any:
        return pack.conditioning.apply_mask(*pair, control, masks(1), strength=0.8)

    def with_image(pair: Any) -> Any:
        apply = host_nodes.ControlNetApplyAdvanced().apply_controlnet
        return apply(*pair, core_control, photos(1), 0.7, 0.0, 1.0)

    first, second = (with_image, with_mask) if core_first else (with_mask, with_image)
    alone = first(conditionings())
    kept = outputs(alone[0], model)
    added = outputs(second(conditionings())[0], model)
    assert kept is not None
    assert added is not None
    assert all(relative_error(a, b) > 0.01 for a, b in zip(kept, added, strict=True))
    for conditioning in second(alone):
        assert_close(
            outputs(conditioning, model), [a + b for a, b in zip(kept, added, strict=True)]
        )
    assert_close(outputs(alone[0], model), kept)


# The image branch, for comparison


def control_of(network: Any, model: Any, *hints: tuple[Tensor, float]) -> list[Tensor]:
    """The ControlNet's own outputs halfway through sampling: the sum of hint times weight."""
    sampling = model.get_model_object("model_sampling")
    sigma = torch.tensor([sampling.percent_to_sigma(0.5)])
    x, timesteps = LATENTS / (sigma**2 + 1).sqrt(), sampling.timestep(sigma)
    total: list[Tensor] = []
    for hint, weight in hints:
        features = network.input_hint_block.encode(hint)
        out = network(x, hint, timesteps.float(), CONTEXT, features)
        parts = [weight * part for part in (*out["middle"], *out["output"])]
        total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
    return total


TIMINGS = [
    {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
    {"strength": 0.6, "start_percent": 0.4, "end_percent": 0.8},
]


@pytest.mark.parametrize("timing", TIMINGS, ids=["default", "part"])
@pytest.mark.parametrize(("recipe", "channels"), [("published", 3), ("concat", 4)])
def test_the_image_branch_is_that_of_training(
    pack: SimpleNamespace, base: StateDict, model: Any, recipe: str, channels: int,
    timing: dict[str, float],
) -> None:  # fmt: skip
    """c_m + w c_i as published; c_m + w (c_i - c_m) for concat, whose c_i sees image and mask."""
    weight, mask, photo = 0.3, masks(1), photos(1)
    made_up = made_up_bundle(base, channels)
    file = weight_file(made_up, Kind.BUNDLE, **metadata(RECIPES[recipe].to_json()))
    control = pack.control.load_control(file)
    hint = pack.hints.mask_hint(mask, channels)
    image = photo.movedim(-1, 1)
    seen = image if channels == 3 else torch.cat([image, mask[:, None]], 1)
    kept = 1.0 if recipe == "published" else 1 - weight
    strength = timing["strength"]
    shares = (hint, strength * kept), (seen, strength * weight)
    expected = control_of(control.control_model, model, *shares)

    positive, negative = conditionings()
    applied = pack.conditioning_nodes.SiameseApplyMask.execute(
        positive=positive, negative=negative, control_net=control, mask=mask, image=photo,
        image_weight=weight, **timing,
    ).args  # fmt: skip
    for conditioning in applied:
        assert_close(outputs(conditioning, model, 0.5), expected)
        for percent in (0.3, 0.9):
            inside = timing["start_percent"] <= percent <= timing["end_percent"]
            assert (outputs(conditioning, model, percent) is not None) == inside


def test_a_photograph_shrinks_smoothly_and_its_mask_by_nearest_neighbour(
    pack: SimpleNamespace, base: StateDict, dhi_inputs: list[Tensor], control: Any
) -> None:
    photo = photos(1, 4 * SIZE, 4 * SIZE)
    branch = control.copy()
    branch.image_channels = 3
    branch.set_cond_hint(photo.movedim(-1, 1))._features_for(random(1, 4, 4, 4), 1)
    assert branch.copy().image_channels == 3
    assert dhi_inputs[0].std() < 0.5 * photo.std()  # noise averages out
    hint = pack.hints.image_hint(photo, pack.hints.mask_hint(masks(1), 4))
    assert hint.shape == (1, 4, 4 * SIZE, 4 * SIZE)
    assert hint[:, 3].unique().tolist() == [0, 1]


def test_images_and_masks_that_do_not_pair_are_an_error(pack: SimpleNamespace) -> None:
    hint = pack.hints.mask_hint(masks(2), 4)
    assert pack.hints.image_hint(photos(1), hint).shape[0] == 2
    with pytest.raises(ValueError, match="3 images for 2 masks"):
        pack.hints.image_hint(photos(3), hint)
    with pytest.raises(ValueError, match=r"image has shape .*expected \[batch, height, width, 3\]"):
        pack.hints.image_hint(photos(1)[0], hint)


def test_weights_without_an_image_branch_refuse_an_image(
    pack: SimpleNamespace, bundle: StateDict
) -> None:
    recipe = RECIPES["mask_only"].to_json()
    control = pack.control.load_control(weight_file(bundle, Kind.BUNDLE, **metadata(recipe)))
    with pytest.raises(ValueError, match="trained without an image branch"):
        pack.conditioning.apply_both(
            ([], []), control, pack.hints.mask_hint(masks(1), 3), photos(1), 1.0, None
        )
