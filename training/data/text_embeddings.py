"""Embeddings of captions, in a file that all processes of a run map: memory stays as it is."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...common.files import replacing
from ...common.text import as_bytes
from ...models.content import is_finite
from ...models.weights import first_line
from ..errors import CacheError
from ..method.base_model import TextEncoder
from .cache import RUN_TEXTS, weights_hash

CHUNK = 8  # captions encoded at a time
BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


class TextEmbeddings:
    """Embeddings (T, D) by caption.

    folder: of the file, whose name says what it holds; None: one of this process alone, which goes
    with it. dtype: in the file, float32 or the one that the networks compute with, which rounds as
    they would. kept: for later runs; else `remove` removes it.
    """

    def __init__(
        self, folder: Path | None = None, dtype: torch.dtype = torch.float32, kept: bool = False
    ) -> None:
        self._dtype, self._kept = dtype, kept
        self._own = None if folder else tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._folder = folder or Path(self._own.name if self._own else "")
        self._path: Path | None = None
        self._rows: dict[str, int] = {}
        self._values = torch.empty(0)

    @torch.no_grad()
    def prepare(
        self,
        encoder: TextEncoder,
        captions: Iterable[str],
        device: torch.device,
        quiet: bool = False,
        first: bool = True,
    ) -> None:
        """Encode captions and the empty one, unless the file is there; the encoder ends on the CPU.

        first: whether this process writes the file. Another one that does not find it, on a disk of
        its own, makes one for itself. Raises CacheError.
        """
        self._rows = {caption: row for row, caption in enumerate(sorted({"", *captions}))}
        what = f"{weights_hash(encoder.module)} {encoder.settings} {self._dtype}"
        digest = hashlib.sha256(as_bytes("\0".join([what, *self._rows])))
        pattern = RUN_TEXTS.removeprefix(".") if self._kept else RUN_TEXTS
        name = pattern.replace("*", digest.hexdigest()[:16])
        if not first and not (self._folder / name).is_file():
            self._own = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            self._folder = Path(self._own.name)
        self._path = self._folder / name
        try:
            if not self._path.is_file():
                self._folder.mkdir(parents=True, exist_ok=True)
                with replacing(self._path) as temporary, temporary.open("wb") as file:
                    self._write(file, encoder, device, quiet)
        except OSError as error:
            raise CacheError(
                f"cannot write {self._path} ({error.strerror}). Free space there, or choose "
                "another --output_dir."
            ) from error
        try:
            self._values = torch.from_numpy(np.load(self._path, mmap_mode="c"))
        except Exception as error:  # of a damaged header NumPy raises nearly anything
            raise self._damaged(first_line(error)) from error
        shape, bits = tuple(self._values.shape), BITS[self._dtype]
        if len(shape) != 3 or shape[0] != len(self._rows) or self._values.dtype != bits:
            found = f"{shape} in {self._values.dtype}"
            raise self._damaged(f"it holds {found}; expected {(len(self._rows), 'T', 'D')}, {bits}")

    def _damaged(self, finding: str) -> CacheError:
        return CacheError(f"{self._path} is damaged ({finding}). Delete it and start again.")

    def _write(
        self, file: BinaryIO, encoder: TextEncoder, device: torch.device, quiet: bool
    ) -> None:
        captions, bits = [*self._rows], BITS[self._dtype]
        encoder.module.to(device).eval()
        for start in tqdm(range(0, len(captions), CHUNK), "text embeddings", disable=quiet):
            embeddings = encoder.encode(captions[start : start + CHUNK]).float().cpu()
            values = embeddings.to(self._dtype).contiguous().view(bits).numpy()
            if not start:
                header = np.lib.format.header_data_from_array_1_0(values)
                header["shape"] = (len(captions), *values.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(values.tobytes())
        encoder.module.to("cpu")

    def load(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (B, T, D) of captions that were prepared."""
        rows = [self._rows[caption] for caption in captions]
        loaded = self._values[rows].view(self._dtype)
        if not is_finite(loaded):
            raise self._damaged("it holds values that are not finite (NaN or infinity)")
        return loaded

    def remove(self) -> None:
        """Remove the file, unless it is kept, once no process needs it."""
        if self._path is not None and not self._kept:
            with suppress(OSError):  # Windows keeps what is mapped
                self._path.unlink()
