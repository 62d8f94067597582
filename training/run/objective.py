"""The objective that the flags ask for."""

from __future__ import annotations

import torch

from ...models.recipe import Recipe
from ..config import TrainConfig
from ..method.distance import make_distance
from ..method.networks import SiameseNetworks
from ..method.noise_schedule import NoiseSchedule, Prediction
from ..method.objective import Objective


def make_objective(
    config: TrainConfig,
    nets: SiameseNetworks,
    prediction: Prediction,
    recipe: Recipe,
    device: torch.device,
) -> Objective:
    """Noise schedule, distance and recipe, for the networks of one run."""
    schedule = NoiseSchedule(prediction, device, config.zero_terminal_snr)
    distance = make_distance(
        config.loss_type, config.huber_schedule, config.huber_c, config.huber_scale, schedule
    )
    return Objective(nets, schedule, recipe, config.max_train_steps, distance)
