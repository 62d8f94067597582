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


class Odd(nn.Module):
    """Gives what no distance can be taken of."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((-2, -1))
        if self.kind == "NaN on bright images":
            return torch.where(means > 0.3, means / 0, means)
        if self.kind == "no values":
            return means[:, :0]
        if self.kind == "whole numbers":
            return means.int()
        if self.kind == "complex numbers":
            return torch.complex(means, means)
        if self.kind == "sparse":
            return means.to_sparse()
        return images.flatten(1).repeat(1, 10)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("NaN on bright images", "not finite"), ("no values", "gives 0 values"),
        ("whole numbers", r"torch\.int32"), ("complex numbers", r"torch\.complex64"),
        ("sparse", r"torch\.sparse"), ("all pixels, ten times", "gives 30720 values"),
    ],
)  # fmt: skip
def test_vectors_that_cannot_be_compared_are_refused_at_once(
    kind: str, says: str, pairs: PairSet, tmp_path: Path
) -> None:
    path = tmp_path / "odd.pt"
    torch.jit.script(Odd(kind)).save(path)
    with pytest.raises(FeaturesError, match=f"{says}.* Give a") as error:
        given_features(path, None, pairs, SETTINGS)
    assert str(error.value).isprintable() and str(path) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.ones(1)}, {"a": torch.ones(1).expand(1 << 20, 1 << 20)},
        {"a": torch.full((2,), float("nan"))}, {"a": torch.empty(1, device="meta")},
        {str(number): torch.ones(1) for number in range(500)},
    ],
)  # fmt: skip
def test_weights_that_are_none_are_refused_in_one_line(
    content: dict[Any, Tensor], pairs: PairSet, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(FeaturesError, match=f"{path}: .* Give a file") as error:
        given_features(path, SMALL, pairs, SETTINGS)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "name", ["hf_hub:timm/resnet18", "hf-hub:a/b", "local-dir:/", "resnet50.x:y", "\x1b[2J" * 999]
)
def test_a_name_that_timm_would_look_for_elsewhere_is_refused(
    name: str, pairs: PairSet, tmp_path: Path
) -> None:
    (path := tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(FeaturesError, match="timm has none of this name") as error:
        given_features(path, name, pairs, SETTINGS)
    assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_a_file_whose_name_is_no_text_is_refused(pairs: PairSet, tmp_path: Path) -> None:
    torch.jit.script(Means()).save(means := tmp_path / "means.pt")
    means.rename(path := tmp_path / "\udce9.pt")
    with pytest.raises(FeaturesError, match="Rename it"):
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
