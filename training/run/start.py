"""One training session: loads the base model, prepares the data, and runs the trainer."""

from __future__ import annotations

import logging
from dataclasses import replace

from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_wandb_available

from ..config import TrainConfig
from ..data.batches import TrainingData
from ..data.cache import DiskCache, MemoryCache
from ..data.dataset import Dataset
from ..data.framing import Framing
from ..data.summary import DatasetSummary, describe_counts
from ..errors import ConfigError
from ..hosts.interface import Host
from ..method.base_model import BaseModel
from .resume import check_same_run, make_record, state_to_continue
from .trainer import Trainer

log = logging.getLogger(__name__)

TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}


def start(config: TrainConfig, dataset: Dataset, host: Host) -> None:
    """Train, or continue what the same command began; with `--dry_run`, only describe it.

    Raises ConfigError, WeightsError or FileNotFoundError for bad input, NotFiniteError when the
    loss is not finite.
    """
    training, held_out = dataset.split(config.validation_split, config.seed)
    accelerator = make_accelerator(config)
    record = make_record(config, dataset.fingerprint(), accelerator.num_processes)
    state = state_to_continue(config, record)
    if accelerator.is_main_process:
        for note in dataset.notes:
            log.warning("Note: %s", note)
    base = host.load_base_model(config, accelerator)
    record["base_hash"] = base.base_hash
    if state is not None:
        check_same_run(config, state, record)
    if config.dry_run:
        data = TrainingData(training, Framing.of(config))
        trainer = Trainer(config, host, base, data, accelerator, record)
        log.info("%s", describe(config, training, held_out, trainer))
        return
    data, validation = prepare_data(config, training, held_out, base, accelerator)
    trainer = Trainer(config, host, base, data, accelerator, record, validation)
    if state is not None:
        trainer.resume(state)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        trainer.folder.begin(record, trainer.step)
    accelerator.wait_for_everyone()
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
    # Of accelerate's other trackers not all take pictures.
    trackers = [name for name in TRACKERS if config.log_with in (name, "all")]
    for name in trackers:
        if not TRACKERS[name]():  # accelerate would leave it out
            raise ConfigError(
                f"--log_with {config.log_with}: {name} is missing; pip install {name}"
            )
    try:
        return Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=trackers or None,
            project_dir=config.output_dir,
        )
    except ValueError as error:
        raise ConfigError(f"--mixed_precision {config.mixed_precision}: {error}") from error


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
    data = TrainingData(training, Framing.of(config), cache)
    quiet, processes = not accelerator.is_main_process, accelerator.num_processes
    if on_disk and processes > 1:
        # Each encodes a part. Below they find everything, unless they have disks of their own.
        part = (accelerator.process_index, processes)
        data.prepare(base, accelerator.device, quiet, part)
        accelerator.wait_for_everyone()
    data.prepare(base, accelerator.device, quiet)
    if not held_out.pairs:
        return data, None
    as_it_is = replace(Framing.of(config), flip=False, rotate=False)
    validation = TrainingData(held_out, as_it_is, cache)
    validation.prepare(base, accelerator.device, quiet)
    return data, validation


def describe(config: TrainConfig, training: Dataset, held_out: Dataset, trainer: Trainer) -> str:
    """What a run would be: its data, steps, parameters and memory."""
    trained = sum(p.numel() for p in trainer.gradients.parameters)
    frozen = sum(p.numel() for p in trainer.nets.parameters()) - trained
    recipe = trainer.objective.recipe
    rows = {
        "validation pairs": len(held_out.pairs),
        "recipe": f"{config.recipe} {recipe.to_json()}",
        "steps": f"{config.max_train_steps} of {trainer.global_batch} pairs "
        f"({trainer.order.steps_per_epoch:.1f} steps an epoch)",
        "each pair is seen": describe_counts(trainer.order.counts(config.max_train_steps)),
        "parameters": f"{trained:,} trained, {frozen:,} frozen",
        "memory": describe_memory(config, trainer),
    }
    table = DatasetSummary.of(training, Framing.of(config)).render()
    return "\n".join([table, *(f"{name:<18}{value}" for name, value in rows.items())])


def describe_memory(config: TrainConfig, trainer: Trainer) -> str:
    """What can be known without a step: no activations, and only AdamW's state."""
    trained = sum(p.numel() * p.element_size() for p in trainer.gradients.parameters)
    weights = sum(p.numel() * p.element_size() for p in trainer.nets.parameters())
    sizes = {"weights": weights, "gradients": trained}
    more = "activations"
    if trainer.ema:
        sizes["moving average"] = trained
    if config.optimizer_type.lower() == "adamw":
        sizes["AdamW"] = 2 * trained
    else:
        more += f" and the state of {config.optimizer_type}"
    total = sum(sizes.values()) / 2**30
    return f"{total:.2f} GiB for {', '.join(sizes)}; {more} come on top"
