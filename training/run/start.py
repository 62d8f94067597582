"""One training session: checks the flags, loads the base model, prepares the data, trains."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from accelerate.utils import is_tensorboard_available, is_wandb_available

from ...models.weights import first_line
from ..config import TrainConfig
from ..data.batches import TrainingData
from ..data.cache import DiskCache, MemoryCache
from ..data.dataset import Dataset
from ..data.framing import Framing
from ..data.sample_prompts import check_sample_prompts
from ..data.summary import DatasetSummary, describe_counts
from ..data.text_embeddings import TextEmbeddings
from ..errors import ConfigError
from ..hosts.interface import Host
from ..method.base_model import BaseModel
from .epochs import count_in_steps
from .estimate import check_disk, describe_memory, estimate_disk
from .failures import file_failures
from .folder import RunFolder
from .gradient_update import check_deepspeed
from .resume import Record, check_same_run, make_record, state_to_continue
from .shared_folder import check_shared_folder
from .speed import HALF, check_settings, choose_kernels, make_deterministic
from .states import check_given_state
from .trainer import Trainer

log = logging.getLogger(__name__)

# Of accelerate's other trackers not all take images.
TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
PROJECT = "siamese-diffusion"  # among the projects of a wandb account


def check(config: TrainConfig, host: Host) -> Accelerator:
    """Find what is wrong with flags and files' headers, before images or models are read.

    Raises ConfigError for flags that cannot work, WeightsError for what is no base model.
    """
    _check_trackers(config)
    make_deterministic(config)
    if find_spec("matplotlib") is None:
        raise ConfigError("matplotlib, which draws the losses, is missing; pip install matplotlib")
    accelerator = make_accelerator(config)
    check_deepspeed(config, accelerator)
    check_settings(config, accelerator.device)
    host.check(config)
    if config.sample_prompts is not None:
        check_sample_prompts(config.sample_prompts, config.mask_mode)
    if config.resume is not None:
        check_given_state(config.resume, config.ema_decay > 0)
    log.info("Processes: %s", describe_processes(accelerator))
    return accelerator


def start(config: TrainConfig, dataset: Dataset, host: Host, accelerator: Accelerator) -> None:
    """Train, or resume what the same command began; with `--dry_run`, only describe it.

    Raises ConfigError, CacheError or WeightsError for bad input, NotFiniteError when the loss is
    not finite, DeviceError when a device fails in a step, FileError when a file does meanwhile.
    """
    if not config.dry_run:
        check_shared_folder(RunFolder(config.output_dir, config.output_name).lock, accelerator)
    training, held_out = dataset.split(config.validation_split, config.seed)
    config = count_in_steps(config, len(training.pairs), accelerator.num_processes)
    record = make_record(config, dataset.fingerprint(), accelerator.num_processes)
    state = state_to_continue(config, record)
    if accelerator.is_main_process:
        for note in dataset.notes:
            log.warning("Note: %s", note)
    base = host.load_base_model(config, accelerator)
    record["base_hash"] = base.base_hash
    if state is not None:
        check_same_run(config, state, record)
    data, validation = training_data(config, training, held_out)
    choose_kernels(config, data.sizes)
    trainer = Trainer(config, host, base, data, accelerator, record, validation)
    counts = trainer.order.counts(config.max_train_steps)
    if config.dry_run:
        check_disk(config, trainer.checkpoints)
        log.info("%s", describe(config, training, held_out, trainer))
        return
    if 0 in counts:
        log.warning(
            "Note: in this run each pair is seen %s.", describe_counts(counts, config.enable_bucket)
        )
    if state is not None:
        trainer.resume(state)
    log.info("Memory: %s", describe_memory(config, trainer.checkpoints))
    log.info("Disk: %s", estimate_disk(config, trainer.checkpoints).render())
    if trainer.step < config.max_train_steps:
        check_disk(config, trainer.checkpoints)
    start_trackers(config, accelerator, record)
    # Encoding is the last that can take long: nothing that fails above has lost it.
    parts = [data] if validation is None else [data, validation]
    for part in parts:
        encode(config, part, base, accelerator)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        trainer.folder.begin(record, trainer.step)
    accelerator.wait_for_everyone()
    with file_failures(lambda: trainer.step, trainer.folder.latest_state):
        trainer.train()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for part in parts:
            part.texts.remove()
    accelerator.end_training()


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Devices, processes and precision. Raises ConfigError for what cannot work here."""
    try:
        accelerator = Accelerator(mixed_precision=config.mixed_precision)
    except ValueError as error:
        raise ConfigError(f"--mixed_precision {config.mixed_precision}: {error}") from error
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("--mixed_precision fp16: needs a GPU; use bf16, or leave the flag out.")
    return accelerator


def describe_processes(accelerator: Accelerator) -> str:
    """How many processes really run, and on what.

    accelerate's launcher starts a single process on CPUs, whatever number it is given, unless MPI
    is installed; it leaves a port for processes that find each other, but no count of them.
    """
    count, device = accelerator.num_processes, accelerator.device.type
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    alone = ""
    if count == 1 and launched and "WORLD_SIZE" not in os.environ:
        alone = (
            "; accelerate launch was asked for more and has started one: for GPUs give it "
            "--multi_gpu, for CPUs it needs MPI (--mpirun_hostfile)"
        )
    return f"{count} on {device}{alone}"


def _trackers(config: TrainConfig) -> list[str]:
    return [name for name in TRACKERS if config.log_with in (name, "all")]


def _check_trackers(config: TrainConfig) -> None:
    if config.anonymous and config.log_with:
        raise ConfigError(
            f"--log_with {config.log_with}: trackers write the name of this machine, and more, by "
            "themselves: leave it or --anonymous out. metrics.jsonl has the same figures."
        )
    for name in _trackers(config):
        if not TRACKERS[name]():
            raise ConfigError(
                f"--log_with {config.log_with}: {name} is missing; pip install {name}"
            )


def start_trackers(config: TrainConfig, accelerator: Accelerator, record: Record) -> None:
    """Begin to log to the trackers, below the output folder. Raises ConfigError."""
    if not (names := _trackers(config)):
        return
    project = config.log_tracker_name or PROJECT
    made: list[GeneralTracker] = []
    with _wandb_failures(config) if "wandb" in names else nullcontext():
        for name in names:
            if name == "tensorboard":
                made.append(TensorBoardTracker(*_tensorboard_folder(config)))
            else:
                # By itself it would write to the working directory.
                run, folder = config.wandb_run_name or config.output_name, str(config.output_dir)
                made.append(WandBTracker(project, dir=folder, name=run))
        accelerator.log_with = made
        # TensorBoard takes no lists and no None.
        accelerator.init_trackers(project, {name: str(value) for name, value in record.items()})


def _tensorboard_folder(config: TrainConfig) -> tuple[str, Path]:
    """A name and the folder it is in: with --logging_dir one of the time, as sd-scripts has it."""
    if config.logging_dir is None:
        return "logs", config.output_dir
    return f"{config.log_prefix or ''}{time.strftime('%Y%m%d%H%M%S')}", config.logging_dir


@contextmanager
def _wandb_failures(config: TrainConfig) -> Iterator[None]:
    """Raises ConfigError where wandb refuses, as without a login."""
    import wandb

    try:
        yield
    except wandb.Error as error:
        raise ConfigError(
            f"--log_with {config.log_with}: wandb says: {first_line(error)}. Run `wandb login`, "
            "or set WANDB_MODE=offline to log to files only."
        ) from error


def training_data(
    config: TrainConfig, training: Dataset, held_out: Dataset
) -> tuple[TrainingData, TrainingData | None]:
    """Training and validation pairs, not encoded yet; the second is None where none are held out.

    Both have one cache: in memory, or on disk beside the output folder. Text embeddings are always
    on disk, where every process finds them.
    """
    on_disk = config.cache_latents_to_disk
    cache = DiskCache(config.cache_dir) if on_disk else MemoryCache()
    dtype = HALF.get(config.mixed_precision, torch.float32)

    def texts() -> TextEmbeddings:
        return TextEmbeddings(config.cache_dir if on_disk else config.output_dir, dtype, on_disk)

    data = TrainingData(training, Framing.of(config), cache, texts=texts())
    if not held_out.pairs:
        return data, None
    return data, TrainingData(held_out, Framing.of(config), cache, augmented=False, texts=texts())


def encode(
    config: TrainConfig, data: TrainingData, base: BaseModel, accelerator: Accelerator
) -> None:
    """Encode captions on the first process, images on all; with a cache on disk a part on each."""
    quiet, processes = not accelerator.is_main_process, accelerator.num_processes
    with accelerator.main_process_first():
        data.texts.prepare(
            base.text_encoder, data.captions(), accelerator.device, quiet, first=not quiet
        )
    if config.cache_latents_to_disk and processes > 1:
        # Below they find everything, unless they have disks of their own.
        part = (accelerator.process_index, processes)
        data.prepare(base, accelerator.device, quiet, part)
        accelerator.wait_for_everyone()
    data.prepare(base, accelerator.device, quiet)


def describe(config: TrainConfig, training: Dataset, held_out: Dataset, trainer: Trainer) -> str:
    """What a run would be: its data, steps, parameters and memory."""
    trained = sum(p.numel() for p in trainer.gradients.parameters)
    frozen = sum(p.numel() for p in trainer.nets.parameters()) - trained
    recipe = trainer.objective.recipe
    rows = {
        "processes": describe_processes(trainer.accelerator),
        "validation pairs": len(held_out.pairs),
        "recipe": f"{config.recipe} {recipe.to_json()}",
        "steps": f"{config.max_train_steps} of {trainer.global_batch} pairs "
        f"({trainer.order.steps_per_epoch:.1f} steps an epoch)",
        "each pair is seen": describe_counts(
            trainer.order.counts(config.max_train_steps), config.enable_bucket
        ),
        "parameters": f"{trained:,} trained, {frozen:,} frozen",
        "memory": describe_memory(config, trainer.checkpoints),
        "disk": estimate_disk(config, trainer.checkpoints).render(),
    }
    table = DatasetSummary.of(training, Framing.of(config)).render()
    return "\n".join([table, *(f"{name:<18}{value}" for name, value in rows.items())])
