"""Weights in memory, and batches of masks to images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..models.contrast import with_random_contrast
from ..models.kinds import DHI_KEY, UNET, Kind
from ..models.low_rank import expanded
from ..models.metadata import read_recipe
from ..models.weights import read_weights, without_prefix
from ..training.hosts.single_file import base_model_of
from ..training.method.bundle import load_trained
from ..training.method.inpainting import Known
from ..training.method.networks import SiameseNetworks, new_controlnet
from ..training.method.noise_schedule import NoiseSchedule
from ..training.method.objective import mask_hint
from ..training.method.sampling import Conditions, denoise
from .masks import Mask
from .painting import Canvas, blends_at, images_at, painted
from .samplers import adds_noise, make_scheduler
from .settings import Settings
from .shard import DOWNSCALE, Wanted
from .weights import Weights, check_base

CAPTIONS_KEPT = 256  # text embeddings in memory, 0.24 MB each
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class SiameseModel:
    """A base model with Siamese weights, on one device."""

    def __init__(self, weights: Weights, settings: Settings, device: str, compiled: bool) -> None:
        """Raises WeightsError, or ConfigError for a folder without tokenizer."""
        self.device = torch.device(device)
        self.settings = settings
        base_file = read_weights(weights.base)
        base = base_model_of(base_file, weights.tokenizer_dir, weights.v_parameterization)
        check_base(weights, base.base_hash)
        file = base_file
        if weights.bundle:
            bundle = read_weights(weights.bundle, [Kind.BUNDLE, Kind.LOW_RANK])
            file = expanded(bundle, without_prefix(base_file.base(), UNET))
        self.recipe = read_recipe(file)
        self.schedule = NoiseSchedule(base.prediction, self.device)
        channels = file.control()[DHI_KEY].shape[1]
        self.nets = SiameseNetworks(base.unet, new_controlnet(base.unet, channels)).eval()
        load_trained(file, self.nets, base.shape)
        self.nets.requires_grad_(False).to(self.device, DTYPES.get(settings.mixed_precision))
        self.autoencoder, self.text_encoder = base.autoencoder, base.text_encoder
        for module in (self.autoencoder.module, self.text_encoder.module):
            module.requires_grad_(False).eval().to(self.device)
        if compiled:
            self.nets.compile_parts()
        self._embedding = lru_cache(CAPTIONS_KEPT)(self._encode_text)
        self._last_hint: tuple[Mask, Tensor] | None = None

    @torch.inference_mode()
    def images(self, batch: Sequence[Wanted]) -> list[np.ndarray]:
        settings = self.settings
        scheduler = make_scheduler(
            settings.sampler, settings.schedule, self.schedule.prediction, settings.steps
        )
        seeds = [one.item.seed(settings.seed) for one in batch]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        height, width = (side // DOWNSCALE for side in batch[0].mask.shape[:2])
        canvases = [one.canvas for one in batch if one.canvas]
        options = {"generator": generators} if adds_noise(scheduler) else {}
        with self._autocast():
            conditions = Conditions(
                mask=torch.empty(0),  # in the features
                text=torch.cat([self._embedding(one.item.caption) for one in batch]),
                empty_text=self._embedding("").expand(len(batch), -1, -1),
                noise=_noise(generators, height, width).to(self.device),
                known=self._known(canvases, seeds, height, width) if canvases else None,
            )
            features = self._features(batch)
            latents = denoise(
                self.nets, self.recipe, conditions, [features], scheduler, settings.cfg, **options
            )
        images = self.autoencoder.decode(latents.float())
        if not torch.isfinite(images).all():
            raise FloatingPointError("the image is not finite")
        if canvases:
            pairs = zip(images, canvases, strict=True)
            return [_to_pixels(painted(*pair)[None])[0] for pair in pairs]
        if settings.least_contrast < 1:
            masks = torch.cat([_to_tensor(one.mask) for one in batch])
            images = with_random_contrast(images, masks, seeds, settings.least_contrast)
        return _to_pixels(images)

    def _known(
        self, canvases: Sequence[Canvas], seeds: Sequence[int], height: int, width: int
    ) -> Known:
        """The canvases as latents of (height, width); noise as ComfyUI's `ddim` draws it."""
        images = images_at(canvases, height * DOWNSCALE, width * DOWNSCALE).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            latents, _ = self.autoencoder.encode(images)
        generators = [torch.Generator().manual_seed((seed + 1) % 2**64) for seed in seeds]
        noise = _noise(generators, height, width).to(self.device)
        blends = blends_at(canvases, height, width).to(self.device)
        return Known(latents, noise, blends, self.schedule)

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = DTYPES.get(self.settings.mixed_precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def _encode_text(self, caption: str) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self.text_encoder.encode([caption])

    def _features(self, batch: Sequence[Wanted]) -> Tensor:
        """The DHI's features (B, 320, h, w): computed once for each mask, and the last one kept.

        The images of one mask come one after another.
        """
        found: dict[Mask, Tensor] = dict([self._last_hint]) if self._last_hint else {}
        for one in batch:
            if one.item.mask not in found:
                hint = mask_hint(self.recipe, _to_tensor(one.mask)).to(self.device)
                found[one.item.mask] = self.nets.hint_features(hint)
        last = batch[-1].item.mask
        self._last_hint = last, found[last]
        return torch.cat([found[one.item.mask] for one in batch])


def _to_tensor(mask: np.ndarray) -> Tensor:
    """A mask -> (1, 1 or 3, H, W) in [0, 1]."""
    if mask.dtype == bool:
        return torch.from_numpy(mask.astype(np.float32))[None, None]
    return rearrange(torch.from_numpy(mask.astype(np.float32) / 255), "h w c -> 1 c h w")


def _noise(generators: Sequence[torch.Generator], height: int, width: int) -> Tensor:
    """(B, 4, height, width), as ComfyUI draws it for one image after the other."""
    shape = (1, 4, height, width)
    return torch.cat([torch.randn(shape, generator=each) for each in generators])


def _to_pixels(images: Tensor) -> list[np.ndarray]:
    """(B, 3, H, W) in [0, 1] -> (H, W, 3), uint8, of each; in one copy from the device."""
    pixels = images.mul(255).round().clamp(0, 255).to("cpu", torch.uint8)
    return [*rearrange(pixels, "b c h w -> b h w c").numpy()]
