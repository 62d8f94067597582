"""Where encoded images and captions are kept: in memory, or in files that later runs find."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...common.text import shown
from ...models.content import is_finite
from ...models.weights import write_weights
from ..errors import CacheError

RUN_TEXTS = ".text-*.npy"  # files of text embeddings that go with their run


class TensorCache(Protocol):
    """Two tensors by key. A key says everything that they depend on."""

    def __contains__(self, key: str) -> bool: ...

    def load(self, key: str, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """What was saved, which has that shape. Raises CacheError for a damaged file."""

    def save(self, key: str, *tensors: Tensor) -> None: ...


class MemoryCache:
    """For this run only."""

    def __init__(self) -> None:
        self._tensors: dict[str, tuple[Tensor, ...]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def load(self, key: str, _shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        return self._tensors[key]

    def save(self, key: str, *tensors: Tensor) -> None:
        self._tensors[key] = tensors


class DiskCache:
    """A safetensors file per key, named after the key's hash; each complete or not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def load(self, key: str, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Raises CacheError for a damaged file."""
        path = self._path(key)
        try:
            tensors = load_file(path)
            if tensors.keys() != {"0", "1"}:
                raise ValueError(f"it holds {shown([*tensors])}; expected 0 and 1")
            for tensor in tensors.values():
                if tensor.shape != shape or tensor.dtype != torch.float32:
                    found = f"{tuple(tensor.shape)} in {tensor.dtype}"
                    raise ValueError(f"it holds {found}; expected {shape} in torch.float32")
                if not is_finite(tensor):
                    raise ValueError("it holds values that are not finite (NaN or infinity)")
            return tensors["0"], tensors["1"]
        except (OSError, SafetensorError, ValueError) as error:
            raise CacheError(
                f"--cache_latents_to_disk: {path} is damaged ({error}). Delete it and start again."
            ) from error

    def save(self, key: str, *tensors: Tensor) -> None:
        """Raises CacheError where nothing can be written, as on a full disk."""
        path, named = self._path(key), {str(n): tensor for n, tensor in enumerate(tensors)}
        try:
            write_weights(path, named, {})  # a key holds a caption
        except (OSError, SafetensorError) as error:
            raise CacheError(
                f"--cache_latents_to_disk: cannot write {path} ({error}). Free space there, choose "
                "another --output_dir, or leave the flag out."
            ) from error

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's weights: names, types and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(values.numpy())
    return digest.hexdigest()
