"""One training session: loads the base model, prepares the data, and runs the trainer."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from accelerate import Accelerator

from .checkpoints import RunFolder
from .data import TrainingData
from .dataset import Dataset
from .errors import ConfigError
from .latent_cache import DiskCache, MemoryCache
from .options import TrainConfig
from .standalone import load_base_model
from .trainer import Trainer

log = logging.getLogger(__name__)

# May differ between a run and its continuation: changes what is written, not what is learnt.
FREE_TO_CHANGE = {
    "resume",
    "save_every_n_steps",
    "keep_last_n",
    "sample_every_n_steps",
    "sample_count",
    "sample_steps",
    "sample_cfg",
    "tokenizer_cache_dir",
    "cache_latents_to_disk",
}


def start(config: TrainConfig, dataset: Dataset) -> None:
    """Train, or continue what the same command began.

    Raises ConfigError, WeightsError or FileNotFoundError for bad input, NotFiniteError when the
    loss is not finite.
    """
    pairs, _held_out = dataset.split(config.validation_split, config.seed)
    folder = RunFolder(config.output_dir, config.output_name)
    if folder.weights().is_file():
        raise ConfigError(
            f"--output_dir: {folder.weights()} exists, that run is finished. Choose another "
            "--output_dir or --output_name."
        )
    state = config.resume or state_to_continue(config, folder)
    base = load_base_model(
        config.pretrained_model_name_or_path, config.tokenizer_cache_dir, config.v_parameterization
    )
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        log_with=config.log_with,
        project_dir=config.output_dir,
    )
    if accelerator.is_main_process:
        for note in dataset.notes:
            log.warning("Note: %s", note)
    on_disk = config.cache_latents_to_disk
    cache = DiskCache(config.output_dir.parent / ".siamese_cache") if on_disk else MemoryCache()
    data = TrainingData(pairs, config.framing(), cache)
    data.prepare(base, accelerator.device, quiet=not accelerator.is_main_process)
    trainer = Trainer(config, base, data, accelerator)
    if state is not None:
        trainer.resume(state)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(config.to_json() + "\n", encoding="utf-8")
    if config.log_with is not None:
        accelerator.init_trackers("logs", json.loads(config.to_json()))
    trainer.train()
    accelerator.end_training()


def state_to_continue(config: TrainConfig, folder: RunFolder) -> Path | None:
    """The newest state in the output folder. Raises ConfigError if another command made it."""
    state = folder.latest_state()
    if state is None:
        # What a run without any state has logged will be logged again.
        folder.drop_metrics_after(0)
        return None
    previous = json.loads(folder.config.read_text(encoding="utf-8"))
    now = json.loads(config.to_json())
    changed = [
        f"--{name} was {previous.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if name not in FREE_TO_CHANGE and previous.get(name) != value
    ]
    if changed:
        raise ConfigError(
            f"--output_dir: {config.output_dir} holds a run of another command "
            f"({'; '.join(changed)}). Choose another --output_dir, or give the same command to "
            "resume that run."
        )
    return state
