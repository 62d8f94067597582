"""How gradients update the weights: with one process, several, or DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor

from ...models.weights import UNREADABLE, first_line
from ..config import TrainConfig
from ..errors import ConfigError
from ..hosts.interface import Host
from ..method.networks import SiameseNetworks
from .gradient_buckets import make_buckets, sum_gradients
from .optimizer_state import check_optimizer, scaler_to_load, schedule_to_load, with_own_settings
from .states import OPTIMIZER, DamagedStateError, read_optimizer, read_state

DEEPSPEED_FOLDER = "deepspeed"
ZERO_STAGE = 2


@contextmanager
def _damaged(folder: Path) -> Iterator[None]:
    """Turn what loading a state's optimizer raises into a DamagedStateError."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        said = first_line(error)
        raise DamagedStateError(f"{folder / OPTIMIZER}: damaged ({said}).") from error


class GradientUpdate:
    """Optimizer and learning rate; every sample of the global batch counts once.

    With several processes the networks run outside a DDP wrapper and gradients are added up by
    hand, because a step has several backward passes, which DDP's hooks do not expect.
    """

    def __init__(
        self, config: TrainConfig, host: Host, nets: SiameseNetworks, accelerator: Accelerator
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.parameters = [p for p in nets.parameters() if p.requires_grad]
        self._buckets = make_buckets(self.parameters)
        batch = config.train_batch_size * config.gradient_accumulation_steps
        self.global_batch = batch * accelerator.num_processes
        optimizer, self.scheduler = host.make_optimizer(config, self.parameters)
        self.optimizer = self._prepare(nets, optimizer)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.scheduler.get_last_lr()[0])

    def _prepare(self, _nets: SiameseNetworks, optimizer: torch.optim.Optimizer) -> Any:
        return self.accelerator.prepare(optimizer)

    def backpropagate(self, loss: Tensor) -> None:
        """Add the gradients of a loss (B,)."""
        self.accelerator.backward(loss.sum() / self.global_batch)

    def reduce_and_clip_gradients(self) -> Tensor | None:
        """Add up the processes' gradients and clip them; their norm before, on the device, or None.

        None with fp16, where it need not be finite: the scaler skips such a step and scales less.
        """
        if self.accelerator.num_processes > 1:
            sum_gradients(self._buckets)
        scaled, limit = self.accelerator.scaler is not None, self.config.max_grad_norm
        if limit > 0:
            norm: Tensor = self.accelerator.clip_grad_norm_(self.parameters, limit)
            return None if scaled else norm
        return None if scaled else self._norm()

    def _norm(self) -> Tensor:
        """Of all gradients; each is read once, and none is written."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return torch.stack(torch._foreach_norm(gradients)).norm()

    def apply(self) -> None:
        """Update the weights by the gradients, then clear the gradients."""
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self, _folder: Path) -> dict[str, Any]:
        """What a state holds of it, as it is now, for states.write_optimizer; on all processes."""
        saved = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        if self.accelerator.scaler is not None:
            saved["scaler"] = self.accelerator.scaler.state_dict()
        return saved

    def load(self, folder: Path) -> None:
        """Read what `state` gave, from a state's folder; called on all processes.

        Raises DamagedStateError, or ConfigError for a state of DeepSpeed.
        """
        saved = read_optimizer(folder)
        if "optimizer" not in saved:
            raise ConfigError(f"--resume {folder}: was saved with DeepSpeed; resume with it.")
        step = read_state(folder)[0]
        with _damaged(folder):
            self.restore(saved, step)

    def restore(self, saved: dict[str, Any], step: int) -> None:
        """Take over optimizer, learning rate and scaler as after that step, on this device."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        scaler = self.accelerator.scaler
        check_optimizer(saved["optimizer"], optimizer, step, may_skip=scaler is not None)
        groups = [
            with_own_settings(theirs, group, optimizer)
            for theirs, group in zip(
                saved["optimizer"]["param_groups"], optimizer.param_groups, strict=True
            )
        ]
        self.optimizer.load_state_dict({**saved["optimizer"], "param_groups": groups})
        self._load_schedule(saved["scheduler"], step)
        if scaler is not None:
            scaler.load_state_dict(scaler_to_load(saved["scaler"], scaler.state_dict()))

    def _load_schedule(self, saved: dict[str, Any], step: int) -> None:
        """The saved place in the schedule, at the learning rate of this command."""
        wanted = self.scheduler.base_lrs
        self.scheduler.load_state_dict(schedule_to_load(saved, self.scheduler.state_dict(), step))
        factors = [new / old for new, old in zip(wanted, self.scheduler.base_lrs, strict=True)]
        self.scheduler.base_lrs = wanted
        rates = zip(self.scheduler.get_last_lr(), factors, strict=True)
        self.scheduler._last_lr = [rate * factor for rate, factor in rates]
        for group, factor in zip(self.scheduler.optimizer.param_groups, factors, strict=True):
            group["initial_lr"] *= factor
            group["lr"] *= factor


class DeepSpeedGradientUpdate(GradientUpdate):
    """ZeRO stage 2: every process keeps a part of the optimizer's state.

    DeepSpeed steps at each backward pass, so the losses are added up for a single one.
    """

    def _prepare(self, nets: SiameseNetworks, optimizer: torch.optim.Optimizer) -> Any:
        settings = self.accelerator.state.deepspeed_plugin.deepspeed_config
        settings["train_micro_batch_size_per_gpu"] = self.config.train_batch_size
        settings["gradient_clipping"] = self.config.max_grad_norm
        settings["zero_allow_untested_optimizer"] = True
        self._engine, prepared = self.accelerator.prepare(nets, optimizer)
        self._losses: list[Tensor] = []
        return prepared

    def backpropagate(self, loss: Tensor) -> None:
        # DeepSpeed averages over the processes.
        self._losses.append(loss.sum() / self.config.train_batch_size)

    def reduce_and_clip_gradients(self) -> None:
        """DeepSpeed adds up and clips in `apply`."""

    def apply(self) -> None:
        self.accelerator.backward(torch.stack(self._losses).sum())
        self._losses.clear()
        self.scheduler.step()

    def state(self, folder: Path) -> dict[str, Any]:
        """Each process writes its part of the optimizer to the state's folder by itself."""
        self._engine.save_checkpoint(str(folder / DEEPSPEED_FOLDER), tag="state")
        return {"scheduler": self.scheduler.state_dict()}

    def load(self, folder: Path) -> None:
        if not (folder / DEEPSPEED_FOLDER).is_dir():
            raise ConfigError(f"--resume {folder}: was saved without DeepSpeed; resume without.")
        step, record = read_state(folder)
        saved, now = record.get("num_processes"), self.accelerator.num_processes
        if saved != now:
            raise ConfigError(
                f"--resume {folder}: was saved by {saved} processes with DeepSpeed, which resumes "
                f"with as many; now there are {now}."
            )
        place = folder / DEEPSPEED_FOLDER
        try:
            found, _ = self._engine.load_checkpoint(str(place), tag="state")
        except UNREADABLE as error:
            raise DamagedStateError(f"{place}: damaged ({first_line(error)}).") from error
        if found is None:  # it only warns
            raise DamagedStateError(f"{place}: holds no state of DeepSpeed.")
        optimizer = read_optimizer(folder)
        with _damaged(folder):
            self._load_schedule(optimizer["scheduler"], step)


def make_gradient_update(
    config: TrainConfig, host: Host, nets: SiameseNetworks, accelerator: Accelerator
) -> GradientUpdate:
    """The way to update that `accelerate launch` has chosen."""
    deepspeed = accelerator.distributed_type is DistributedType.DEEPSPEED
    return (DeepSpeedGradientUpdate if deepspeed else GradientUpdate)(
        config, host, nets, accelerator
    )


def check_deepspeed(config: TrainConfig, accelerator: Accelerator) -> None:
    """Raise ConfigError for what does not go together with DeepSpeed, where that is used."""
    if accelerator.distributed_type is not DistributedType.DEEPSPEED:
        return
    stage = accelerator.state.deepspeed_plugin.zero_stage
    if stage > ZERO_STAGE:
        raise ConfigError(f"DeepSpeed ZeRO stage {stage}: stages up to {ZERO_STAGE} are supported.")
    refused = {
        "--gradient_accumulation_steps": config.gradient_accumulation_steps > 1,
        "--gradient_checkpointing": config.gradient_checkpointing,
        "--mixed_precision": accelerator.mixed_precision != "no",
    }
    if names := [name for name, given in refused.items() if given]:
        raise ConfigError(f"{', '.join(names)}: not together with DeepSpeed; leave one out.")
