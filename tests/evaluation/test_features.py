"""Networks that a user gives as --features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from siamese_diffusion.evaluation.errors import FeaturesError
from siamese_diffusion.evaluation.features import given_features, own_features
from siamese_diffusion.evaluation.pair_sets import PairSet
from siamese_diffusion.evaluation.settings import Settings
from siamese_diffusion.evaluation.store import Store
from support.evaluated_pairs import made_up
from torch import Tensor, nn

SETTINGS = Settings(
    resolution=32, segmenters=("fpn_small",), steps=3, batch_size=4, validations=1, draws=2
)
SMALL = "mobilenetv3_small_050"


class Means(nn.Module):
    """Mean colours; on request as maps."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((-2, -1))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return made_up(tmp_path_factory.mktemp("features"), "real_train", 12, 0, group_of=2)


def test_torchscript_gets_images_from_0_to_1(pairs: PairSet, tmp_path: Path) -> None:
    path = tmp_path / "means.pt"
    torch.jit.script(Means()).save(path)
    features = given_features(path, None, pairs, SETTINGS)
    assert features.of(pairs) == pytest.approx(pairs.images.mean((1, 2)) / 255, abs=1e-5)
    assert "means.pt" in features.name
    assert features.unseen is pairs


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_timm_are_those_of_the_file(pairs: PairSet, tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    network: Any = timm.create_model(SMALL, pretrained=False).eval()
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    found = given_features(path, SMALL, pairs, SETTINGS).of(pairs)
    config = network.default_cfg
    images = torch.from_numpy(pairs.images).movedim(-1, 1).float() / 255
    sized = nn.functional.interpolate(
        images, config["input_size"][1:], mode="bilinear", antialias=True
    )
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        maps = network.forward_features((sized - mean) / std)
        expected = network.forward_head(maps, pre_logits=True)
    assert found == pytest.approx(expected.numpy(), abs=1e-4)


def test_what_is_no_network_is_refused_in_words(pairs: PairSet, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no network", "utf-8")
    with pytest.raises(FeaturesError, match="cannot be read as TorchScript"):
        given_features(text, None, pairs, SETTINGS)
    with pytest.raises(FeaturesError, match="cannot be read as weights"):
        given_features(text, SMALL, pairs, SETTINGS)
    with pytest.raises(FeaturesError, match="timm has none"):
        given_features(text, "no_such_network", pairs, SETTINGS)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(FeaturesError, match=f"not the weights of {SMALL}"):
        given_features(other, SMALL, pairs, SETTINGS)


def test_a_script_of_another_shape_is_refused(pairs: PairSet, tmp_path: Path) -> None:
    path = tmp_path / "flat.pt"
    torch.jit.script(nn.Flatten(0)).save(path)
    with pytest.raises(FeaturesError, match=r"expected \(B, D\)"):
        given_features(path, None, pairs, SETTINGS)


def test_our_own_encoder_has_not_seen_its_reference(pairs: PairSet, tmp_path: Path) -> None:
    features = own_features(pairs, SETTINGS, Store(tmp_path))
    assert "trained on 6 real training pairs" in features.name
    assert len(features.unseen) == 6
    # In units of the reference's deviation.
    vectors = features.of(features.unseen)
    varying = vectors.std(0) > 0.5
    assert varying.any()
    assert np.allclose(vectors[:, varying].std(0), 1, atol=1e-2)
    again = own_features(pairs, SETTINGS, Store(tmp_path))
    assert (again.of(pairs) == features.of(pairs)).all()
