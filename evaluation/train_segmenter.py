"""One training of one segmenter: the same number of steps and the same rule for every arm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch import Tensor
from tqdm import tqdm

from .augmentation import Augmentation
from .overlap import dice
from .pair_sets import PairSet
from .segmenters import Segmenter, as_tensor, predict
from .settings import Settings


@dataclass(frozen=True)
class Training:
    """What is trained on what. augment: with ordinary augmentation. number: which repetition."""

    segmenter: str
    pool: PairSet
    validation: PairSet
    augment: bool
    number: int


@dataclass(frozen=True)
class Trained:
    """A trained segmenter with the weights that were best on the validation pairs."""

    segmenter: Segmenter
    best_step: int
    validation_dice: float
    seconds: float


def train(
    training: Training, statistics: tuple[Tensor, Tensor], settings: Settings, text: str = ""
) -> Trained:
    """Train with Dice and cross-entropy loss, AdamW, one cycle of the learning rate.

    statistics: mean and deviation of the colours. The result depends on the settings' seed and the
    training's number: on one machine's CPU to the bit.
    """
    start, device = time.monotonic(), settings.torch_device()
    seed = int(np.random.SeedSequence((settings.seed, training.number)).generate_state(1)[0])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        segmenter = Segmenter(training.segmenter, *statistics).to(device)
        optimizer = torch.optim.AdamW(segmenter.parameters(), settings.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.steps
        )
        loss_function = DiceCELoss(sigmoid=True)
        best = (-1.0, 0, dict[str, Tensor]())
        looks = {
            round(settings.steps * (i + 1) / settings.validations)
            for i in range(settings.validations)
        }
        batches = _batches(training, settings, seed)
        # None: a bar on a terminal only.
        for step in tqdm(range(1, settings.steps + 1), text, leave=False, disable=None):
            images, masks = next(batches)
            segmenter.train()
            loss_function(segmenter(images.to(device)), masks.to(device)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            if step in looks:
                score = validate(segmenter, training.validation)
                if score > best[0]:
                    best = (score, step, _copy(segmenter))
    segmenter.load_state_dict(best[2])
    return Trained(segmenter.eval(), best[1], best[0], time.monotonic() - start)


def validate(segmenter: Segmenter, pairs: PairSet) -> float:
    """Mean Dice."""
    return float(dice(predict(segmenter, pairs.images), pairs.masks).mean())


def _copy(segmenter: Segmenter) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in segmenter.state_dict().items()}


def _batches(training: Training, settings: Settings, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every pair once before any is seen again."""
    rng = np.random.default_rng(seed)
    augmentation = Augmentation(seed % 2**32) if training.augment else None
    pool, order = training.pool, np.empty(0, dtype=int)
    while True:
        while len(order) < settings.batch_size:
            order = np.concatenate([order, rng.permutation(len(pool))])
        chosen, order = order[: settings.batch_size], order[settings.batch_size :]
        images, masks = pool.images[chosen], pool.masks[chosen]
        if augmentation:
            yield augmentation(images, masks)
        else:
            yield as_tensor(images, torch.device("cpu")), torch.from_numpy(masks)[:, None].float()
