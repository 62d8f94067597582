"""What a training step asks of its device and sends to it, on the device that has no values.

PyTorch's "meta" device computes shapes only. Whoever asks it for a value is caught, as a GPU would
make him wait; what is copied to it is counted, as it would be sent to a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from siamese_diffusion.training.command_line import parse_args
from siamese_diffusion.training.data.batch_order import Share
from siamese_diffusion.training.data.dataset import load_dataset
from siamese_diffusion.training.hosts.standalone import Standalone
from siamese_diffusion.training.method.objective import Batch
from siamese_diffusion.training.run.start import encode, training_data
from siamese_diffusion.training.run.trainer import Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

META = torch.device("meta")
VALUES = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2")


class Traffic(TorchDispatchMode):
    """asked: operations that need values of the device, which gives ones. sent: bytes copied to it.

    waiting: copies to it during which the host waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.sent = 0
        self.waiting: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        on_device = any(tensor.device == META for tensor in tensors)
        name = func.overloadpacket.__name__
        if on_device and name in VALUES:
            self.asked.append(name)
            return torch.zeros((1, 1), dtype=torch.long) if name == "nonzero" else 1.0
        if name == "_to_copy" and on_device and kwargs.get("device") == torch.device("cpu"):
            self.asked.append(name)
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "_to_copy" and not on_device and kwargs.get("device") == META:
            self._sends(args[0], name, kwargs.get("non_blocking", False))
        if name == "copy_" and args[0].device == META and args[1].device != META:
            self._sends(args[1], name, args[2] if len(args) > 2 else False)
        return func(*args, **kwargs)

    def _sends(self, tensor: Tensor, name: str, non_blocking: bool) -> None:
        self.sent += tensor.nbytes
        if not non_blocking:
            self.waiting.append(name)


class HalfAugmented(Standalone):
    """Every other sample has a low timestep."""

    def apply_noise_options(self, batch: Batch, _share: Share, _seed: int, _step: int) -> Batch:
        return replace(batch, timesteps=torch.arange(len(batch.timesteps)) % 2 * 500)


def meta_trainer(arguments: list[str]) -> Trainer:
    """Ready for its first step, with networks that have no values."""
    host = HalfAugmented()
    config, dataset = load_dataset(parse_args(arguments), host.resolve_subsets)
    accelerator = Accelerator(cpu=True)
    base = host.load_base_model(config, accelerator)
    data, _ = training_data(config, *dataset.split(0.0, config.seed))
    encode(config, data, base, accelerator)
    accelerator.state.device = PartialState().device = META
    return Trainer(config, host, base, data, accelerator, {})
