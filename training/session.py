"""One training session: loads the base model, prepares the data, and runs the trainer."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from .checkpoints import RunFolder
from .data import TrainingData
from .dataset import Dataset
from .errors import ConfigError
from .host import BaseModel, Host
from .latent_cache import DiskCache, MemoryCache
from .options import TrainConfig
from .summary import DatasetSummary
from .trainer import Trainer

log = logging.getLogger(__name__)

# May differ between a run and its continuation: changes what is written, not what is learnt.
FREE_TO_CHANGE = {
    "resume",
    "save_every_n_steps",
    "keep_last_n",
    "sample_every_n_steps",
    "validate_every_n_steps",
    "sample_count",
    "sample_steps",
    "sample_cfg",
    "tokenizer_cache_dir",
    "host",
    "sd_scripts",
    "cache_latents_to_disk",
    "log_with",
}


def start(config: TrainConfig, dataset: Dataset, host: Host) -> None:
    """Train, or continue what the same command began; with `--dry_run`, only describe it.

    Raises ConfigError, WeightsError or FileNotFoundError for bad input, NotFiniteError when the
    loss is not finite.
    """
    training, held_out = dataset.split(config.validation_split, config.seed)
    folder = RunFolder(config.output_dir, config.output_name)
    recipe = asdict(config.resolved_recipe())
    record = {**json.loads(config.to_json()), **recipe, "dataset": dataset.fingerprint()}
    state = None if config.dry_run else state_to_continue(config, folder, record)
    accelerator = make_accelerator(config)
    if accelerator.is_main_process:
        log.info("Host: %s", host.name)
        for note in dataset.notes:
            log.warning("Note: %s", note)
    base = host.load_base_model(config, accelerator)
    if config.dry_run:
        trainer = Trainer(config, host, base, TrainingData(training, config.framing()), accelerator)
        log.info("%s", describe(config, training, held_out, trainer))
        return
    data, validation = prepare_data(config, training, held_out, base, accelerator)
    trainer = Trainer(config, host, base, data, accelerator, validation)
    if state is not None:
        trainer.resume(state)
    folder.begin(record)
    if config.log_with is not None:
        # TensorBoard takes no lists and no None.
        values = {name: str(value) for name, value in record.items()}
        # wandb would write to the working directory.
        wandb = {"dir": str(config.output_dir), "name": config.output_name}
        accelerator.init_trackers("logs", values, {"wandb": wandb})
    trainer.train()
    accelerator.end_training()


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Devices, processes and precision. Raises ConfigError for what cannot work here."""
    try:
        return Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=config.log_with,
            project_dir=config.output_dir,
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"--mixed_precision {config.mixed_precision} or --log_with {config.log_with}: {error}"
        ) from error


def prepare_data(
    config: TrainConfig,
    training: Dataset,
    held_out: Dataset,
    base: BaseModel,
    accelerator: Accelerator,
) -> tuple[TrainingData, TrainingData | None]:
    """Encode training and validation pairs; the second is None where none are held out."""
    on_disk = config.cache_latents_to_disk
    cache = DiskCache(config.output_dir.parent / ".siamese_cache") if on_disk else MemoryCache()
    data = TrainingData(training, config.framing(), cache)
    quiet, processes = not accelerator.is_main_process, accelerator.num_processes
    if on_disk and processes > 1:
        # Each encodes a part. Below they find everything, unless they have disks of their own.
        part = (accelerator.process_index, processes)
        data.prepare(base, accelerator.device, quiet, part)
        accelerator.wait_for_everyone()
    data.prepare(base, accelerator.device, quiet)
    if not held_out.pairs:
        return data, None
    as_it_is = replace(config.framing(), flip=False, rotate=False)
    validation = TrainingData(held_out, as_it_is, cache)
    validation.prepare(base, accelerator.device, quiet)
    return data, validation


def describe(config: TrainConfig, training: Dataset, held_out: Dataset, trainer: Trainer) -> str:
    """What a run would be: its data, steps, parameters and memory."""
    trained = sum(p.numel() for p in trainer.update.parameters)
    frozen = sum(p.numel() for p in trainer.nets.parameters()) - trained
    # Weight, gradient and AdamW's two averages, in float32.
    memory = (trained * 16 + frozen * 4) / 2**30
    recipe = trainer.objective.recipe
    rows = {
        "validation pairs": len(held_out.pairs),
        "recipe": f"{config.recipe} {recipe.to_json()}",
        "steps": f"{config.max_train_steps} of {trainer.global_batch} pairs "
        f"({trainer.order.batches_per_epoch} steps an epoch)",
        "parameters": f"{trained:,} trained, {frozen:,} frozen",
        "memory": f"{memory:.1f} GiB for weights, gradients and AdamW; activations come on top",
    }
    table = DatasetSummary.of(training, config.framing()).render()
    return "\n".join([table, *(f"{name:<18}{value}" for name, value in rows.items())])


def state_to_continue(
    config: TrainConfig, folder: RunFolder, record: dict[str, Any]
) -> Path | None:
    """The state to go on from: `--resume`, or the newest in the output folder.

    Raises ConfigError if that run is finished, or if another command or dataset made it.
    """
    if folder.weights().is_file():
        raise ConfigError(
            f"--output_dir: {folder.weights()} exists, that run is finished. Choose another "
            "--output_dir or --output_name."
        )
    if config.resume is not None:
        return config.resume
    state = folder.latest_state()
    if state is None:
        # What a run without any state has logged will be logged again.
        folder.drop_metrics_after(0)
        return None
    previous = json.loads(folder.config.read_text(encoding="utf-8"))
    changed = [
        f"--{name} was {previous.get(name)!r}, is {value!r}"
        for name, value in record.items()
        if name not in (*FREE_TO_CHANGE, "dataset") and previous.get(name) != value
    ]
    if previous["dataset"] != record["dataset"]:
        changed.append("images, masks or captions have changed")
    if changed:
        raise ConfigError(
            f"--output_dir: {config.output_dir} holds a run of another command "
            f"({'; '.join(changed)}). Choose another --output_dir, or give the same command and "
            "data to resume that run."
        )
    return state
