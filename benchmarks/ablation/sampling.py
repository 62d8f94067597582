"""Masks to images in batches, with the trainer's own DDIM: hundreds without a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import repeat
from torch import Tensor
from tqdm import tqdm

from ...models.metadata import read_metadata
from ...models.weights import WeightsError, read_weights
from ...tools.nuclei_crops import PROMPT
from ...tools.pairs import Bools, Bytes
from ...tools.train_autoencoder import to_image
from ...training.hosts.single_file import load_base_model
from ...training.method.bundle import load_bundle
from ...training.method.networks import SiameseNetworks, new_controlnet
from ...training.method.noise_schedule import NoiseSchedule
from ...training.method.objective import Objective
from ...training.method.sampling import Conditions, sample

BATCH = 128
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Sampler:
    """A base model with a bundle in it."""

    def __init__(self, base: Path, bundle: Path) -> None:
        """Raises WeightsError for files that are none, or do not go together."""
        model = load_base_model(base, None, v_parameterization=False)
        metadata = read_metadata(read_weights(bundle).metadata, str(bundle))
        if metadata is None or metadata.base_hash != model.base_hash:
            raise WeightsError(f"{bundle}: was not trained on {base}.")
        recipe = metadata.recipe
        nets = SiameseNetworks(model.unet, new_controlnet(model.unet, recipe.hint_channels()))
        load_bundle(bundle, nets, model.shape)
        schedule = NoiseSchedule(device=DEVICE)
        self.objective = Objective(nets.to(DEVICE).eval(), schedule, recipe, max_steps=1)
        self.autoencoder = model.autoencoder
        self.autoencoder.module.to(DEVICE)
        with torch.no_grad():
            encoded = model.text_encoder.encode(["", PROMPT])
        self.empty_text, self.text = encoded.to(DEVICE).split(1)

    @torch.no_grad()
    def images(
        self,
        masks: Sequence[Bools],
        seeds: Sequence[int],
        images: Sequence[Bytes] | None = None,
        steps: int = 20,
        cfg: float = 1.5,
        bf16: bool = True,
        scheduler: Callable[[int], Any] | None = None,
    ) -> list[Bytes]:
        """An image (H, W, 3) in 0..255 for each mask (H, W) and seed, as ComfyUI samples it.

        images: grey ones (H, W), 0..255; with them the image branch joins in, as in training.
        scheduler: one of diffusers' for a number of steps; default: the published DDIM.
        """
        found: list[Bytes] = []
        with tqdm(total=len(masks), desc="sampling", unit="image", disable=None) as bar:
            for start in range(0, len(masks), BATCH):
                part = np.s_[start : start + BATCH]
                conditions = self._conditions(
                    masks[part], seeds[part], None if images is None else images[part]
                )
                with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
                    other = scheduler(steps) if scheduler else None
                    latents = sample(self.objective, conditions, steps, cfg, other)
                decoded = self.autoencoder.decode(latents.float()).cpu()
                found += [to_image(image) for image in decoded]
                bar.update(len(masks[part]))
        return found

    def _conditions(
        self, masks: Sequence[Bools], seeds: Sequence[int], images: Sequence[Bytes] | None
    ) -> Conditions:
        count, (height, width) = len(masks), masks[0].shape
        photos = None
        if images is not None:
            grey = torch.from_numpy(np.stack(images)).to(DEVICE).float() / 255
            photos = repeat(grey, "b h w -> b 3 h w")
        return Conditions(
            mask=torch.from_numpy(np.stack(masks)).to(DEVICE).float()[:, None],
            text=self.text.expand(count, -1, -1),
            empty_text=self.empty_text.expand(count, -1, -1),
            noise=torch.cat([_noise(seed, height // 8, width // 8) for seed in seeds]).to(DEVICE),
            image=photos,
        )


def _noise(seed: int, height: int, width: int) -> Tensor:
    """As ComfyUI draws it for one image."""
    return torch.randn((1, 4, height, width), generator=torch.Generator().manual_seed(seed))
