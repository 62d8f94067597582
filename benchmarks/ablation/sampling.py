"""Masks to images in batches, with the trainer's own DDIM: hundreds without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
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

BATCH = 32


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
        self.objective = Objective(nets.eval(), NoiseSchedule(), recipe, max_steps=1)
        self.autoencoder = model.autoencoder
        with torch.no_grad():
            self.empty_text, self.text = model.text_encoder.encode(["", PROMPT]).split(1)

    @torch.no_grad()
    def images(
        self,
        hints: Sequence[Bools | Bytes],
        seeds: Sequence[int],
        steps: int = 20,
        cfg: float = 1.5,
        bf16: bool = True,
    ) -> list[Bytes]:
        """An image (H, W, 3) in 0..255 for each hint and seed.

        hints: masks (H, W), which the mask branch turns into what ComfyUI samples for that seed;
        or images (H, W), 0..255, for the image branch of a recipe that sees the image alone.
        """
        images: list[Bytes] = []
        with tqdm(total=len(hints), desc="sampling", unit="image", disable=None) as bar:
            for start in range(0, len(hints), BATCH):
                part = np.s_[start : start + BATCH]
                conditions = self._conditions(hints[part], seeds[part])
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    latents = sample(self.objective, conditions, steps, cfg)
                images += [to_image(image) for image in self.autoencoder.decode(latents.float())]
                bar.update(len(hints[part]))
        return images

    def _conditions(self, hints: Sequence[Bools | Bytes], seeds: Sequence[int]) -> Conditions:
        pictures = np.stack([*hints])
        largest = 1 if pictures.dtype == bool else 255
        count, height, width = pictures.shape
        return Conditions(
            mask=torch.from_numpy(pictures.astype(np.float32) / largest)[:, None],
            text=self.text.expand(count, -1, -1),
            empty_text=self.empty_text.expand(count, -1, -1),
            noise=torch.cat([_noise(seed, height // 8, width // 8) for seed in seeds]),
        )


def _noise(seed: int, height: int, width: int) -> Tensor:
    """As ComfyUI draws it for one image."""
    return torch.randn((1, 4, height, width), generator=torch.Generator().manual_seed(seed))
