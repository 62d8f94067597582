"""Low-rank bundles in ComfyUI: the same model as the merged checkpoint, whatever ran before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from siamese_diffusion.models.fit import ENCODER
from siamese_diffusion.models.kinds import CONTROL, UNET, Kind
from siamese_diffusion.models.low_rank import expanded
from siamese_diffusion.models.weights import StateDict, WeightFile, merge, write_weights
from support.seeded_weights import load_model, relative_error, seeded, weight_file

pytest_plugins = ["support.comfy_inside"]
pytestmark = pytest.mark.usefixtures("inference")
RANK, ALPHA = 2, 3.0
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def low_rank(bundle: StateDict) -> WeightFile:
    """The bundle with factors of rank 2 in place of its copied encoder and of its decoder."""
    tensors: StateDict = {}
    for key, value in bundle.items():
        copied = key.removeprefix(CONTROL).startswith(ENCODER) or key.startswith(UNET)
        if not (copied and value.ndim > 1 and key.endswith(".weight")):
            tensors[key] = value
            continue
        name, ones = key.removesuffix(".weight"), (1,) * (value.ndim - 2)
        tensors[f"{name}.lora_down.weight"] = seeded(f"{name}.down", (RANK, *value.shape[1:]))
        tensors[f"{name}.lora_up.weight"] = seeded(f"{name}.up", (len(value), RANK, *ones))
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return weight_file(tensors, Kind.LOW_RANK)


def in_place(pack: SimpleNamespace, model: Any) -> StateDict:
    """The UNet as it samples, patches applied."""
    model.patch_model(torch.device("cpu"))
    tensors = {key: value.clone() for key, value in pack.decoder.unet_tensors(model).items()}
    model.unpatch_model(torch.device("cpu"))
    return tensors


def load(pack: SimpleNamespace, model: Any, low_rank: WeightFile) -> tuple[Any, StateDict]:
    """What the bundle loader makes of them: MODEL, and the ControlNet's weights."""
    weights = expanded(low_rank, pack.decoder.unpatched_tensors(model))
    control = pack.control.load_control(weights)
    return pack.decoder.with_decoder(model, weights), control.control_model.state_dict()


def test_base_and_low_rank_bundle_are_the_merged_model(
    pack: SimpleNamespace, base: StateDict, model: Any, low_rank: WeightFile
) -> None:
    trained, control = load(pack, model, low_rank)
    unet = {key.removeprefix(UNET): value for key, value in base.items() if key.startswith(UNET)}
    merged = merge(base, expanded(low_rank, unet))
    plain = {key: value for key, value in merged.items() if not key.startswith(CONTROL)}
    expected = in_place(pack, load_model(pack, plain))
    found = in_place(pack, trained)
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    changed = "output_blocks.0.0.in_layers.2.weight"
    assert not torch.equal(found[changed], base[UNET + changed])
    for key, value in control.items():
        assert torch.equal(value, merged[CONTROL + key]), key


def test_decoder_strength_is_the_share_of_the_factors_and_of_the_whole_tensors(
    pack: SimpleNamespace, base: StateDict, model: Any, low_rank: WeightFile,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """W + strength alpha / r up down; biases and norms a weighted mean; the ControlNet in full."""
    import folder_paths

    name, strength = "low_rank.safetensors", 0.25
    write_weights(tmp_path / name, low_rank.tensors, {})
    place = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "controlnet", place)
    # ComfyUI remembers folders that it has listed; this one is gone after the test.
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    trained, control = pack.loader_nodes.SiameseBundleLoader.execute(model, name, strength).result
    found = in_place(pack, trained)
    factors = low_rank.tensors
    for key in (key for key in base if key.startswith(UNET)):
        layer, expected = key.removesuffix(".weight"), base[key]
        if f"{layer}.lora_up.weight" in factors:
            up, down = (factors[f"{layer}.lora_{way}.weight"].double() for way in ("up", "down"))
            product = torch.einsum("or...,ri...->oi...", up, down)
            expected = expected + strength * ALPHA / RANK * product
        elif key in factors:
            expected = (1 - strength) * expected + strength * factors[key]
        assert relative_error(found[key.removeprefix(UNET)], expected) < ROUNDING, key
    whole = expanded(low_rank, pack.decoder.unpatched_tensors(model)).tensors
    for key, value in control.control_model.state_dict().items():
        assert torch.equal(value, whole[CONTROL + key]), key


def test_what_an_earlier_run_has_left_in_place_does_not_count(
    pack: SimpleNamespace, bundle: StateDict, model: Any, low_rank: WeightFile
) -> None:
    expected = load(pack, model, low_rank)[1]
    other = pack.decoder.with_decoder(model, weight_file(bundle, Kind.BUNDLE))
    other.add_patches({"diffusion_model.input_blocks.0.0.weight": (torch.ones(320, 4, 3, 3),)})
    other.patch_model(torch.device("cpu"))
    try:
        trained, found = load(pack, model, low_rank)
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    finally:
        other.unpatch_model(torch.device("cpu"))
    assert in_place(pack, trained).keys() == in_place(pack, model).keys()
