"""The Siamese ControlNet in ComfyUI's sampling: batches, masks, copies, memory, wrong weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from siamese_diffusion.models.kinds import CONTROL, UNET, Kind
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import StateDict, WeightsError
from support.control_inputs import ROUNDING, SIZE, Sample, masks, metadata, photos, random
from support.seeded_weights import load_model, made_up_bundle, relative_error, weight_file
from torch import Tensor

pytest_plugins = ["support.comfy_inside", "support.control_sampling"]
pytestmark = pytest.mark.usefixtures("inference")

# Which mask goes to which latent


@pytest.mark.parametrize("cfg", [1.0, 7.0])
def test_each_latent_gets_its_own_mask(control: Any, sample: Sample, cfg: float) -> None:
    noise = random(3, 4, 4, 4)
    alone = torch.cat(
        [sample(control, masks(3)[i, None], noise=noise[i, None], cfg=cfg) for i in range(3)]
    )
    for batch in (2, 3):
        together = sample(control, masks(3)[:batch], noise=noise[:batch], cfg=cfg)
        assert relative_error(together, alone[:batch]) < ROUNDING


def test_one_mask_serves_all_latents(control: Any, sample: Sample) -> None:
    noise = random(3, 4, 4, 4)
    one = sample(control, masks(1), noise=noise)
    three = sample(control, masks(1).expand(3, -1, -1), noise=noise)
    assert relative_error(one, three) < ROUNDING


def test_conditionings_run_apart_give_the_same(control: Any, sample: Sample, model: Any) -> None:
    """As ComfyUI does when memory is short."""
    import comfy.samplers

    def apart(args: dict[str, Any]) -> list[Tensor]:
        rest = [args[key] for key in ("input", "sigma", "model_options")]
        return [
            comfy.samplers.calc_cond_batch(args["model"], [conditioning], *rest)[0]
            for conditioning in args["conds"]
        ]

    split = model.clone()
    split.set_model_sampler_calc_cond_batch_function(apart)
    noise = random(2, 4, 4, 4)
    assert (
        relative_error(
            sample(control, masks(2), noise=noise, on=split), sample(control, masks(2), noise=noise)
        )
        < ROUNDING
    )


@pytest.mark.parametrize(("mask_count", "latent_count"), [(2, 1), (2, 3), (3, 2), (4, 2), (2, 4)])
def test_counts_that_do_not_fit_are_an_error(
    control: Any, sample: Sample, mask_count: int, latent_count: int
) -> None:
    with pytest.raises(ValueError, match=f"{mask_count} masks for {latent_count} latents"):
        sample(control, masks(mask_count), noise=random(latent_count, 4, 4, 4))


# Masks of all kinds


@pytest.mark.parametrize("shape", [(32, 64), (1, 32, 64), (1, 1, 32, 64)])
def test_every_mask_layout_and_a_size_that_is_not_square(
    control: Any, sample: Sample, shape: tuple[int, ...]
) -> None:
    noise = random(1, 4, 4, 8)
    expected = sample(control, masks(1, 32, 64), noise=noise)
    assert torch.equal(sample(control, masks(1, 32, 64).reshape(shape), noise=noise), expected)


@pytest.mark.parametrize("shape", [(32,), (1, 3, 32, 32), (1, 32, 32, 3, 1), (0, 32, 32)])
def test_what_is_not_a_mask_is_an_error(
    control: Any, sample: Sample, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"mask has shape .*expected \[height, width\]"):
        sample(control, torch.zeros(shape))


def test_the_hint_is_binary_and_never_smoothed_or_cropped(
    control: Any, sample: Sample, dhi_inputs: list[Tensor]
) -> None:
    mask = torch.linspace(0, 1, 48).expand(1, 16, 48).clone()  # a ramp, three times as wide as high
    mask[:, :, 0] = 1  # the left edge, which a centre crop would lose
    sample(control, mask)
    hint = dhi_inputs[0]
    assert hint.shape == (1, 3, SIZE, SIZE)
    assert hint.unique().tolist() == [0, 1]
    assert hint[..., 0].all()
    assert hint[..., SIZE // 2 :].all()
    assert not hint[..., 1 : SIZE // 2].any()


def test_the_threshold_is_the_published_one(pack: SimpleNamespace) -> None:
    grey = torch.tensor([[127 / 255, 128 / 255]])
    assert pack.hints.mask_hint(grey, 3)[0, 0].tolist() == [[0, 1]]


@pytest.mark.parametrize("channels", [4, 6])
def test_weights_of_image_and_mask_get_an_empty_image(
    pack: SimpleNamespace, base: StateDict, sample: Sample, channels: int
) -> None:
    concat = weight_file(
        made_up_bundle(base, channels), Kind.BUNDLE, **metadata(RECIPES["concat"].to_json())
    )
    control = pack.control.load_control(concat)
    assert control.hint_channels == channels
    hint = pack.hints.mask_hint(masks(1), channels)
    assert not hint[:, :3].any()
    assert (hint[:, 3:] == masks(1)[:, None]).all()
    assert relative_error(sample(control, masks(1)), sample()) > 0.01


@pytest.mark.parametrize("channels", [3, 6])
def test_palette_colours_are_kept(pack: SimpleNamespace, channels: int) -> None:
    palette = photos(2)
    hint = pack.hints.palette_hint(palette, channels)
    assert torch.equal(hint[:, -3:], palette.movedim(-1, 1))
    assert not hint[:, :-3].any()


def test_binary_weights_refuse_a_palette(pack: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"trained on binary masks.*connect 'mask'"):
        pack.hints.palette_hint(photos(1), 4)


# Once a run


@pytest.mark.slow
def test_the_dhi_runs_once_in_fifty_steps(
    control: Any, sample: Sample, dhi_inputs: list[Tensor]
) -> None:
    sample(control, masks(1, 16, 16), noise=random(1, 4, 2, 2), steps=50)
    assert len(dhi_inputs) == 1
    sample(control, masks(1, 16, 16), noise=random(1, 4, 2, 2), steps=2)
    assert len(dhi_inputs) == 2


def test_copies_share_no_state(control: Any, dhi_inputs: list[Tensor]) -> None:
    x, hints = random(1, 4, 4, 4), [mask.expand(1, 3, -1, -1) for mask in masks(2)]
    first = control.copy().set_cond_hint(hints[0])
    expected = first._features_for(x, 1)
    second = first.copy().set_cond_hint(hints[1])
    assert not torch.equal(second._features_for(x, 1), expected)
    assert torch.equal(first._features_for(x, 1), expected)
    assert len(dhi_inputs) == 2


def test_features_follow_mask_size_and_run(control: Any, dhi_inputs: list[Tensor]) -> None:
    copy = control.copy().set_cond_hint(masks(1).expand(1, 3, -1, -1))
    small, large = random(1, 4, 4, 4), random(1, 4, 8, 8)
    for x in (small, large, small, large):
        assert copy._features_for(x, 1).shape[-2:] == x.shape[-2:]
    assert len(dhi_inputs) == 2
    copy.set_cond_hint(torch.ones(1, 3, SIZE, SIZE))
    copy._features_for(small, 1)
    copy.cleanup()
    copy._features_for(small, 1)
    assert len(dhi_inputs) == 4


# Memory and dtypes


def test_offloaded_weights_give_the_same(
    pack: SimpleNamespace, control: Any, sample: Sample, model: Any, bundle: StateDict
) -> None:
    """As with --lowvram: weights stay behind and are fetched and patched layer by layer."""
    weights = weight_file(bundle, Kind.BUNDLE)
    trained = pack.decoder.with_decoder(model, weights)
    expected = sample(control, masks(1), on=trained)
    loaded = [control.control_model_wrapped, trained]
    for patcher in loaded:
        patcher.unpatch_model(torch.device("cpu"))
        patcher.load(torch.device("cpu"), lowvram_model_memory=1)
        assert patcher.model.model_lowvram
    assert torch.equal(sample(control, masks(1), on=trained), expected)


def test_half_precision_weights_are_those_of_the_merged_model(
    pack: SimpleNamespace, base: StateDict, bundle: StateDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where ComfyUI keeps the UNet and the ControlNet in 16 bits."""
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "bf16_unet", True)
    weights = weight_file(bundle, Kind.BUNDLE)
    trained = pack.decoder.with_decoder(load_model(pack, base), weights)
    merged = load_model(pack, merged_tensors(base, bundle))
    assert merged.model_dtype() == torch.bfloat16
    assert_same(unet_weights(pack, trained), unet_weights(pack, merged))


def test_half_precision_gives_nearly_the_same(
    pack: SimpleNamespace, bundle: StateDict, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.cli_args

    weights = weight_file(bundle, Kind.BUNDLE)
    expected = sample(pack.control.load_control(weights), masks(1))
    monkeypatch.setattr(comfy.cli_args.args, "bf16_unet", True)
    half = pack.control.load_control(weights)
    assert half.control_model.dtype == torch.bfloat16
    assert relative_error(sample(half, masks(1)), expected) < 0.05


# Weights that do not fit


def test_missing_and_unexpected_keys_are_an_error(pack: SimpleNamespace, bundle: StateDict) -> None:
    damaged = dict(bundle)
    del damaged[f"{CONTROL}middle_block.0.in_layers.0.bias"]
    damaged[f"{CONTROL}surplus"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"1 missing: middle_block.*1 unexpected: surplus"):
        pack.control.load_control(weight_file(damaged, Kind.BUNDLE))


def test_a_tensor_of_another_shape_is_an_error(pack: SimpleNamespace, bundle: StateDict) -> None:
    damaged = {**bundle, f"{CONTROL}zero_convs.0.0.bias": torch.zeros(7)}
    with pytest.raises(WeightsError, match=r"1 of another shape: zero_convs.*\(7,\) instead of"):
        pack.control.load_control(weight_file(damaged, Kind.BUNDLE))


def test_an_incomplete_encoder_is_an_error(pack: SimpleNamespace, bundle: StateDict) -> None:
    damaged = dict(bundle)
    del damaged[f"{CONTROL}input_blocks.0.0.weight"]
    with pytest.raises(WeightsError, match="encoder is incomplete"):
        pack.control.load_control(weight_file(damaged, Kind.BUNDLE))


def test_a_recipe_that_contradicts_the_weights_is_an_error(
    pack: SimpleNamespace, bundle: StateDict
) -> None:
    mixed = weight_file(bundle, Kind.BUNDLE, **metadata(RECIPES["concat"].to_json()))
    with pytest.raises(WeightsError, match=r"needs \[4, 6\] hint channels; its weights have 3"):
        pack.control.load_control(mixed)


def test_a_model_with_other_text_features_is_an_error(control: Any, model: Any) -> None:
    control.control_model.context_dim = 1024  # what an SD 2.x ControlNet has
    with pytest.raises(ValueError, match="width 1024; the connected MODEL has 768"):
        control.copy().pre_run(model.model, model.get_model_object("model_sampling"))


def test_a_plain_controlnet_is_an_error(sample: Sample) -> None:
    import comfy.controlnet

    with pytest.raises(ValueError, match="not a Siamese one"):
        sample(comfy.controlnet.ControlNet(), masks(1))


# The decoder


def unet_weights(pack: SimpleNamespace, model: Any) -> StateDict:
    """The UNet as it samples, patches applied."""
    model.patch_model(torch.device("cpu"))
    tensors = {key: value.clone() for key, value in pack.decoder.unet_tensors(model).items()}
    model.unpatch_model(torch.device("cpu"))
    return tensors


def merged_tensors(base: StateDict, bundle: StateDict) -> StateDict:
    return {**base, **{key: value for key, value in bundle.items() if key in base}}


def assert_same(found: StateDict, expected: StateDict) -> None:
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def test_base_and_bundle_are_the_merged_model(
    pack: SimpleNamespace, base: StateDict, bundle: StateDict, model: Any
) -> None:
    before = unet_weights(pack, model)
    trained = pack.decoder.with_decoder(model, weight_file(bundle, Kind.BUNDLE))
    merged = load_model(pack, merged_tensors(base, bundle))
    assert_same(unet_weights(pack, trained), unet_weights(pack, merged))
    assert_same(unet_weights(pack, model), before)


def test_a_lora_counts_before_and_after(
    pack: SimpleNamespace, base: StateDict, bundle: StateDict, model: Any
) -> None:
    key = "diffusion_model.out.2.weight"
    lora = {key: (torch.full((4, 320, 3, 3), 0.25),)}
    weights = weight_file(bundle, Kind.BUNDLE)
    before = model.clone()
    before.add_patches(lora, 0.5)
    after = pack.decoder.with_decoder(model, weights)
    after.add_patches(lora, 0.5)
    merged = load_model(pack, merged_tensors(base, bundle))
    merged.add_patches(lora, 0.5)
    expected = unet_weights(pack, merged)
    assert_same(unet_weights(pack, pack.decoder.with_decoder(before, weights)), expected)
    assert_same(unet_weights(pack, after), expected)


@pytest.mark.parametrize("strength", [0.0, 0.25])
def test_decoder_strength_is_the_share_of_the_trained_decoder(
    pack: SimpleNamespace, base: StateDict, bundle: StateDict, model: Any, strength: float
) -> None:
    key = "out.2.weight"
    trained = pack.decoder.with_decoder(model, weight_file(bundle, Kind.BUNDLE), strength)
    found = unet_weights(pack, trained)
    expected = torch.lerp(base[UNET + key], bundle[UNET + key], strength)
    assert relative_error(found[key], expected) < ROUNDING
    if strength == 0.0:
        assert_same(found, unet_weights(pack, model))


def test_a_bundle_for_another_architecture_is_an_error(
    pack: SimpleNamespace, bundle: StateDict, model: Any
) -> None:
    other = {key: value for key, value in bundle.items() if "output_blocks.1" not in key}
    with pytest.raises(WeightsError, match=r"decoder: the weights do not fit.*base checkpoint"):
        pack.decoder.with_decoder(model, weight_file(other, Kind.BUNDLE))


def test_a_controlnet_alone_leaves_the_model_unchanged(
    pack: SimpleNamespace, bundle: StateDict, model: Any
) -> None:
    alone = {key: value for key, value in bundle.items() if key.startswith(CONTROL)}
    same = pack.decoder.with_decoder(model, weight_file(alone, Kind.CONTROL_ONLY))
    assert same.patches == {}
