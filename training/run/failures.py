"""Why training cannot go on, in words: losses that are not finite, and devices that fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size

from ...common.files import describe_error
from ...models.weights import first_line
from ..config import TrainConfig
from ..errors import CacheError, DeviceError, FileError, NotFiniteError

# Of torch 2.8 and later; a plain RuntimeError before.
ACCELERATOR_ERROR: type[Exception] = getattr(torch, "AcceleratorError", torch.cuda.OutOfMemoryError)

LatestState = Callable[[], Path | None]


def check_finite(
    values: Mapping[str, float],
    step: int,
    images: Callable[[], Iterable[Path]],
    latest: LatestState,
) -> None:
    """Raise NotFiniteError naming step, values and images, before the weights are changed."""
    bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if not bad:
        return
    state = latest()
    advice = f"Resume from it with --resume {state} and" if state else "Start again with"
    raise NotFiniteError(
        f"step {step}: not finite: {', '.join(bad)}. The batch: {', '.join(map(str, images()))}. "
        f"The weights were not updated; last good state: {state or 'none'}. "
        f"{advice} a lower --learning_rate, or start again without --mixed_precision."
    )


@contextmanager
def device_failures(config: TrainConfig, step: int, latest: LatestState) -> Iterator[None]:
    """Turn what a device raises in a step into a DeviceError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = first_line(Exception(*error.args[:1] or [type(error).__name__]))  # a code may follow
        if is_out_of_memory(error):
            reason = f"out of memory ({said}). {memory_advice(config)}"
        elif config.deterministic and "eterministic" in said:
            reason = f"--deterministic: {said}. Leave that flag out; it may be when resuming."
        elif isinstance(error, ACCELERATOR_ERROR):
            reason = f"the device failed ({said})."
        else:
            raise
        raise DeviceError(f"step {step}: {reason} {resume_advice(latest())}") from error


@contextmanager
def file_failures(step: Callable[[], int], latest: LatestState) -> Iterator[None]:
    """Turn what goes wrong with files under a run into a FileError that says what is kept.

    A full disk, a folder made read-only, a file that was deleted, damaged or changed.
    """
    try:
        yield
    except (OSError, FileError, CacheError) as error:
        reason = describe_error(error) if isinstance(error, OSError) else str(error)
        state = latest()
        kept = f"is kept: {state}" if state else "was saved yet"
        what = "The last state" if state else "No state"
        then = "resumes from it" if state else "begins anew"
        raise FileError(
            f"after step {step()}: {reason.rstrip('.')}. {what} {kept}. Put that right (make room, "
            f"bring the file back, change permissions), and the same command {then}."
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the machine had no memory left."""
    return (
        isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
        or should_reduce_batch_size(error)
        or (isinstance(error, ACCELERATOR_ERROR) and "out of memory" in str(error))
    )


def memory_advice(config: TrainConfig) -> str:
    """The settings that need less memory and are not in use yet."""
    settings = []
    if not config.gradient_checkpointing:
        settings.append("--gradient_checkpointing")
    if config.mixed_precision == "no":
        settings.append("--mixed_precision bf16")
    if config.train_batch_size > 1:
        batch = config.train_batch_size * config.gradient_accumulation_steps
        settings.append(
            f"--train_batch_size 1 --gradient_accumulation_steps {batch} (now "
            f"{config.train_batch_size} and {config.gradient_accumulation_steps})"
        )
    if "8bit" not in config.optimizer_type.lower():
        settings.append("--optimizer_type AdamW8bit")
    settings.append(f"a smaller --resolution (now {config.resolution})")
    return f"These need less: {', '.join(settings)}."


def resume_advice(state: Path | None) -> str:
    if state is None:
        return "No state was saved yet: start again."
    return (
        f"The last state is kept: {state}. The same command resumes from it, also with "
        "--gradient_checkpointing or the same pairs a step split otherwise; any other setting "
        "needs a new run in another --output_dir."
    )
