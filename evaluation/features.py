"""What images are compared by: vectors from a network the user gives, or from our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..common.hashes import file_hash
from ..common.pickles import check_pickle
from ..common.text import printable, shortened
from ..common.text_files import check_regular
from .errors import FeaturesError
from .finite import check_finite
from .pair_sets import PairSet
from .segmenters import BATCH, as_tensor
from .settings import Settings
from .splits import split
from .store import Store, remembered
from .train_segmenter import Training

MOST_VALUES = 8192  # of a vector; the Frechet distance takes a matrix of them
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Features:
    """What images are compared by.

    name: what made them, as every figure says; short: the same in a few words. unseen: the real
    training pairs that the network was not trained on, which alone may be a reference.
    """

    name: str
    short: str
    unseen: PairSet
    embed: Callable[[Tensor], Tensor]
    device: torch.device
    _known: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, pairs: PairSet) -> np.ndarray:
        """(N, D), float32; computed once for each set."""
        key = pairs.fingerprint()
        if key not in self._known:
            self._known[key] = self.of_images(pairs.images)
        return self._known[key]

    @torch.inference_mode()
    def of_images(self, images: np.ndarray) -> np.ndarray:
        """(N, D), float32, of images (N, H, W, 3), uint8."""
        parts = [
            self.embed(as_tensor(images[start : start + BATCH], self.device)).cpu().numpy()
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)


def own_features(real_train: PairSet, settings: Settings, store: Store) -> Features:
    """Features of a segmenter trained, with augmentation, on half of the real training pairs.

    Each is divided by its deviation over the other half, so that none outweighs the rest.
    """
    unseen, seen = split(real_train, 0.5, settings.seed)
    # Its validation may part a group: no figure depends on these pairs.
    order = np.random.default_rng((settings.seed, 8)).permutation(len(seen))
    held = max(1, round(settings.validation_share * len(seen)))
    training, validation = seen.take(order[held:]), seen.take(order[:held])
    name = settings.segmenters[0]
    job = Training(name, training, validation, True, settings.seeds)
    segmenter = remembered(store, job, seen, settings)
    raw = Features("", "", unseen, segmenter.features, settings.torch_device())
    reference = raw.of_images(unseen.images)
    mean = torch.from_numpy(reference.mean(0)).to(raw.device)
    std = torch.from_numpy(np.maximum(reference.std(0), 1e-6)).to(raw.device)
    text = (
        f"the encoder of a segmenter ({name}) trained on {len(seen)} real training pairs that are "
        "in no reference set here"
    )
    short = "the encoder of our own segmenter"
    return Features(text, short, unseen, lambda x: (segmenter.features(x) - mean) / std, raw.device)


def given_features(
    path: Path, architecture: str | None, real_train: PairSet, settings: Settings
) -> Features:
    """Features of the user's network: TorchScript, or weights of a timm architecture.

    TorchScript gets images (B, 3, H, W) in [0, 1]; timm's gets them at its own size, normalised as
    its configuration says. Raises FeaturesError.
    """
    if printable(str(path)) != str(path):  # torch opens no such file
        raise FeaturesError(f"{path}: the name is not UTF-8 text. Rename it.")
    device = settings.torch_device()
    network = _timm(path, architecture) if architecture else _script(path)
    network = network.to(device).eval()
    short = f"{architecture or 'TorchScript'} in {shortened(path.name)}"
    text = f"{short} (SHA-256 {file_hash(path)[:12]})"
    features = Features(
        text, short, real_train, lambda images: _embed(network, images, path), device
    )
    features.of(real_train)  # kept: a network that fails on one of them does so now
    return features


@torch.inference_mode()
def _embed(network: nn.Module, images: Tensor, path: Path) -> Tensor:
    """(B, D), float32, finite, of images (B, 3, H, W). Raises FeaturesError."""
    try:
        found = network(images)
    except RuntimeError as error:
        reason = shortened((str(error).strip().splitlines() or ["no reason given"])[-1], 400)
        raise FeaturesError(
            f"{path}: fails on images (B, 3, {images.shape[-2]}, {images.shape[-1]}) in [0, 1]: "
            f"{reason}. Give another network, or another --resolution."
        ) from error
    return _checked(found, len(images), path)


def _checked(found: object, images: int, path: Path) -> Tensor:
    """What a network gives for so many images, as (B, D), float32. Raises FeaturesError."""
    if not isinstance(found, Tensor) or found.ndim not in (2, 4) or len(found) != images:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise FeaturesError(
            f"{path}: gives {shape}; expected (B, D) or (B, D, h, w). Give another network."
        )
    if not found.is_floating_point() or found.layout is not torch.strided:
        raise FeaturesError(
            f"{path}: gives {found.layout} values of {found.dtype}; expected dense floating point "
            "ones. Give another network."
        )
    if not 0 < found.shape[1] <= MOST_VALUES:
        raise FeaturesError(
            f"{path}: gives {found.shape[1]} values for an image; expected 1 to {MOST_VALUES}. "
            "Give a network that ends in a pooling of its features."
        )
    found = found.mean((-2, -1)).float() if found.ndim == 4 else found.float()
    if not torch.isfinite(found).all():
        raise FeaturesError(
            f"{path}: gives values that are not finite (NaN or infinity). Give another network."
        )
    return found


def _script(path: Path) -> nn.Module:
    try:
        check_regular(path)
        return torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise FeaturesError(
            f"{path}: cannot be read as TorchScript. For weights of timm also give the name of the "
            "architecture with --features_model."
        ) from error


def _timm(path: Path, architecture: str) -> nn.Module:
    import timm
    from safetensors.torch import load_file

    # Of other names it takes a part for an address, from which it downloads.
    if ":" in architecture or not timm.is_model(architecture):
        raise FeaturesError(
            f"--features_model {shortened(architecture)}: timm has none of this name; expected one "
            "of timm.list_models(), such as resnet50."
        )
    network: Any
    try:
        network = timm.create_model(architecture, pretrained=False, num_classes=0)
    except RuntimeError as error:
        raise FeaturesError(
            f"--features_model {shortened(architecture)}: timm has none: "
            f"{shortened(str(error), 400)}. Give another name."
        ) from error
    try:
        check_regular(path)
        if path.suffix.lower() == ".safetensors":
            weights = load_file(path)
        else:
            check_pickle(path)
            weights = dict(torch.load(path, "cpu", weights_only=True))
        check_finite(weights)
    except Exception as error:  # pickle and zip raise nearly anything on other files
        reason = shortened(str(error), 400)
        raise FeaturesError(
            f"{path}: cannot be read as weights ({reason}). Give a file of {architecture}'s."
        ) from error
    head = network.default_cfg.get("classifier") or ()  # a name, several, or none
    heads = (head,) if isinstance(head, str) else tuple(head)
    weights = {name: value for name, value in weights.items() if not name.startswith(heads)}
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise FeaturesError(
            f"{path}: not the weights of {architecture}: {shortened(str(error), 400)}. Give a file "
            f"of {architecture}'s."
        ) from error
    return _Prepared(network)


class _Prepared(nn.Module):
    """A timm network with its own size and normalisation before it."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        config = network.default_cfg
        self.size = config["input_size"][-2:]
        for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(config.get(name, default)).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        sized = functional.interpolate(images, self.size, mode="bilinear", antialias=True)
        return self.network((sized - self.mean) / self.std)
