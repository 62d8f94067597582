"""Previews of the prompts in --sample_prompts: mask | sampled | outline, a row for each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from einops import rearrange
from PIL import Image
from torch import Tensor

from ...common.pictures import mask_reader
from ..config import TrainConfig
from ..data.batch_order import generator
from ..data.sample_prompts import SamplePrompt, read_sample_prompts
from ..method.base_model import BaseModel
from ..method.objective import Objective
from ..method.sampling import Conditions, sample
from .folder import RunFolder
from .pictures import decode, grid, outline, save_image

log = logging.getLogger(__name__)


class PromptPreviews:
    """Samples the prompts one by one, with the same noise at every step of the run."""

    def __init__(
        self, config: TrainConfig, base: BaseModel, objective: Objective, accelerator: Accelerator
    ) -> None:
        """Raises ConfigError for a file that cannot be used."""
        self.config, self.base, self.objective = config, base, objective
        self.accelerator = accelerator
        path = config.sample_prompts
        self.prompts = read_sample_prompts(path) if path is not None else []

    @torch.no_grad()
    def sample(self, part: tuple[int, int]) -> dict[int, Tensor]:
        """Images (1, 3, H, W) in [0, 1] by the prompt's number; of each n-th from the k-th on."""
        self.objective.nets.eval()
        numbers = range(part[0], len(self.prompts), part[1])
        return {number: self._sample(self.prompts[number]) for number in numbers}

    def show(self, step: int, folder: RunFolder, sampled: Mapping[int, Tensor]) -> None:
        """Write the grid of a step, where there are prompts."""
        if not self.prompts:
            return
        masks = torch.cat([self._mask(prompt.mask) for prompt in self.prompts])
        images = torch.cat([sampled[number] for number in range(len(self.prompts))])
        path = folder.preview(step).with_name(f"{folder.name}-prompts-step{step:08d}.png")
        save_image(grid([masks, images, outline(images, masks)]), path)
        log.info("Preview: %s", path)

    def _mask(self, path: Path) -> Tensor:
        """(1, 1 or 3, H, W) in [0, 1], at the training size."""
        read = mask_reader(self.config.mask_mode)
        picture = Image.fromarray(read(path)).resize(self.config.size, Image.Resampling.NEAREST)
        values = np.asarray(picture).astype(np.float32)
        if values.ndim == 3:
            return torch.from_numpy(rearrange(values / 255, "h w c -> 1 c h w"))
        return torch.from_numpy(rearrange(values, "h w -> 1 1 h w"))

    def _sample(self, prompt: SamplePrompt) -> Tensor:
        """An image (1, 3, H, W) in [0, 1], on the CPU."""
        device, config = self.accelerator.device, self.config
        mask = self._mask(prompt.mask)
        seed = config.seed if prompt.seed is None else prompt.seed
        shape = (1, 4, mask.shape[-2] // 8, mask.shape[-1] // 8)
        encoder = self.base.text_encoder  # on the CPU: a few captions
        text, negative = (encoder.encode([t]) for t in (prompt.prompt, prompt.negative_prompt))
        noise = torch.randn(shape, generator=generator(seed, "preview", 0))
        given = (mask, text, negative, noise)
        mask, text, negative, noise = (tensor.to(device) for tensor in given)
        conditions = Conditions(mask, text, negative, noise)
        steps = config.sample_steps if prompt.steps is None else prompt.steps
        cfg = config.sample_cfg if prompt.cfg is None else prompt.cfg
        with self.accelerator.autocast():
            latents = sample(self.objective, conditions, steps, cfg)
        return decode(self.base.autoencoder, latents, device)
