"""The trainer's own step on made-up pairs: data, noise, update and logging included."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from tqdm import tqdm

from ..models.weights import read_weights
from ..tools.pairs import write_pairs
from ..tools.train_autoencoder import ASSET
from ..training.config import TrainConfig
from ..training.data.batch_order import Share
from ..training.data.dataset import load_dataset
from ..training.hosts.single_file import load_autoencoder
from ..training.hosts.standalone import Standalone
from ..training.method.base_model import BaseModel
from ..training.method.objective import Batch
from ..training.run.start import encode, training_data
from ..training.run.trainer import Trainer
from .workload import LEARNING_RATE, MAX_STEPS, STEP, Scale, spread_timesteps

SMALLEST = 32  # pixels of a made-up picture


class SpreadTimesteps(Standalone):
    """A host whose batches have a set number of samples with t <= 200."""

    augmented = 0

    def apply_noise_options(self, batch: Batch, _share: Share, _seed: int, _step: int) -> Batch:
        timesteps = spread_timesteps(len(batch.timesteps), self.augmented)
        return replace(batch, timesteps=torch.tensor(timesteps))


class RandomText:
    """Embeddings of captions; they are computed once, before any step."""

    settings = ""

    def __init__(self, context_dim: int) -> None:
        self.module: nn.Module = nn.Linear(1, 1)
        self._shape = (77, context_dim)

    def encode(self, captions: Sequence[str]) -> Tensor:
        return torch.randn(len(captions), *self._shape)


@contextmanager
def trainer_steps(scale: Scale) -> Iterator[Callable[[int], object]]:
    """One step of the trainer on the CPU, as a function of how many samples are augmented."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder, "pairs")
        write_pairs(pairs, count=4 * scale.batch, size=max(scale.pixels, SMALLEST), seed=0)
        config = TrainConfig(
            pretrained_model_name_or_path=Path(),
            output_dir=Path(folder, "out"),
            train_data=pairs / "prompt.jsonl",
            resolution=str(scale.pixels),
            train_batch_size=scale.batch,
            max_train_steps=MAX_STEPS,
            learning_rate=LEARNING_RATE,
        )
        host, bar = SpreadTimesteps(), tqdm(disable=True)
        trainer = _make_trainer(config, scale, host)
        trainer.folder.begin({}, 0)
        trainer.step = STEP

        def step(augmented: int) -> None:
            host.augmented = augmented
            trainer.train_and_log_step(bar)

        try:
            with trainer.batches, trainer.background:
                yield step
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)


def _make_trainer(config: TrainConfig, scale: Scale, host: Standalone) -> Trainer:
    accelerator = Accelerator(cpu=True)
    config, dataset = load_dataset(config, host.resolve_subsets)
    data, _ = training_data(config, *dataset.split(0.0, config.seed))
    unet = UNet2DConditionModel(**scale.shape.diffusers_config())
    weights = {key: value.float() for key, value in read_weights(ASSET).tensors.items()}
    autoencoder = load_autoencoder(weights, "autoencoder")
    text = RandomText(scale.shape.context_dim)
    base = BaseModel(unet, scale.shape, autoencoder, text, "epsilon", base_hash="")
    encode(config, data, base, accelerator)
    return Trainer(config, host, base, data, accelerator, {})
