"""What a run needs before it starts: memory, and space on disk."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..config import TrainConfig
from ..errors import ConfigError
from ..method.bundle import bundle_tensors
from .checkpoint import Checkpoints
from .publish import FORMATS

log = logging.getLogger(__name__)

# Tensors that an optimizer keeps for each one that it trains, of the same size.
OPTIMIZER_COPIES = {"adamw": 2, "sgdnesterov": 1}
RECORD_BYTES = 350  # around each tensor in a file of torch.save: names, checksums, alignment


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes on disk, of states and weights; metrics and previews are small beside them.

    state: one resumable state, the weights for ComfyUI included. peak: at most, while a state is
    written. final: what a finished run leaves. missing: what is not counted, or "".
    """

    state: int
    peak: int
    final: int
    missing: str

    def render(self) -> str:
        more = f"; {self.missing} comes on top" if self.missing else ""
        return (
            f"{gib(self.final)} left at the end, {gib(self.peak)} while it runs, {gib(self.state)} "
            f"for each state{more}"
        )


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def estimate_disk(config: TrainConfig, checkpoints: Checkpoints) -> DiskEstimate:
    """From the sizes of what is trained; a state's bundle is also the weight file of its step."""
    copies = OPTIMIZER_COPIES.get(config.optimizer_type.lower())
    tensors = bundle_tensors(checkpoints.nets, checkpoints.shape)
    metadata = checkpoints.metadata(config.max_train_steps)
    bundle = safetensors_bytes(tensors, metadata)
    published = safetensors_bytes(tensors, metadata, FORMATS[config.save_precision].itemsize)
    # In full precision a weight file is the same file as its state's.
    more = 0 if config.save_precision == "float" else published
    parameters = checkpoints.gradients.parameters
    optimizer = sum(
        (copies or 0) * (p.numel() * p.element_size() + RECORD_BYTES) + RECORD_BYTES
        for p in parameters
    )
    own = bundle * (2 if checkpoints.ema else 1) + optimizer
    state = own + more
    missing = "" if copies is not None else f"the state of {config.optimizer_type}"
    if config.save_every_n_steps == 0:
        return DiskEstimate(state, peak=state, final=published, missing=missing)
    before_last = (config.max_train_steps - 1) // config.save_every_n_steps
    kept = min(config.keep_last_n, before_last + 1)
    # The last state has no weight file of its step, so one more of an earlier step is kept.
    earlier = published if before_last >= config.keep_last_n else 0
    final = kept * state + earlier
    peak = min(config.keep_last_n + 1, before_last + 1) * state
    return DiskEstimate(state, peak=max(peak, final), final=final, missing=missing)


def safetensors_bytes(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], value_bytes: int = 4
) -> int:
    """Size of a .safetensors file: eight bytes, a header as JSON, and the values."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * value_bytes
        header[name] = {
            "dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end],
        }  # fmt: skip
    return 8 + len(json.dumps(header, separators=(",", ":")).encode()) + end


def check_disk(config: TrainConfig, checkpoints: Checkpoints) -> None:
    """Raise ConfigError where not one state fits, warn where not all that is kept does.

    What the folder holds already, of a run to resume, counts as written.
    """
    estimate, folder = estimate_disk(config, checkpoints), config.output_dir
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if free < estimate.state:
        raise ConfigError(
            f"--output_dir {folder}: {gib(free)} are free there, and a state of this run takes "
            f"{gib(estimate.state)}. Free space, or give another folder."
        )
    needed = estimate.peak - bytes_in(folder)
    if free < needed:
        log.warning(
            "Note: --output_dir %s: %s are free there, and this run needs %s more. Free space, or "
            "lower --keep_last_n.", folder, gib(free), gib(needed),
        )  # fmt: skip


def bytes_in(folder: Path) -> int:
    """Size of a folder's weights and states; a file with several names counts once."""
    files = [*folder.glob("*.safetensors"), *folder.glob("state/**/*")]
    found = {stat.st_ino: stat.st_size for stat in map(Path.stat, files)}
    return sum(found.values())


def describe_memory(config: TrainConfig, checkpoints: Checkpoints) -> str:
    """What can be known without a step: no activations, and no unknown optimizer's state."""
    parameters = checkpoints.gradients.parameters
    trained = sum(p.numel() * p.element_size() for p in parameters)
    weights = sum(p.numel() * p.element_size() for p in checkpoints.nets.parameters())
    sizes = {"weights": weights, "gradients": trained}
    more = "activations"
    if checkpoints.ema:
        sizes["EMA"] = trained
    copies = OPTIMIZER_COPIES.get(config.optimizer_type.lower())
    if copies is not None:
        sizes[config.optimizer_type] = copies * trained
    else:
        more += f" and the state of {config.optimizer_type}"
    return f"{gib(sum(sizes.values()))} for {', '.join(sizes)}; {more} come on top"
