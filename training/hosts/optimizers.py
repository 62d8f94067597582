"""Optimizers and learning-rate schedules by sd-scripts' names."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Sequence
from typing import Any

from diffusers.optimization import get_scheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...common.text import shown
from ..config import LR_SCHEDULERS
from ..errors import ConfigError

# Name in lower case -> (module, class, package to install, arguments).
OPTIMIZERS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "adamw": ("torch.optim", "AdamW", "torch", {}),
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", {}),
    "pagedadamw8bit": ("bitsandbytes.optim", "PagedAdamW8bit", "bitsandbytes", {}),
    "lion": ("lion_pytorch", "Lion", "lion-pytorch", {}),
    "lion8bit": ("bitsandbytes.optim", "Lion8bit", "bitsandbytes", {}),
    "prodigy": ("prodigyopt", "Prodigy", "prodigyopt", {}),
    "adafactor": (
        "transformers.optimization",
        "Adafactor",
        "transformers",
        {"relative_step": False, "scale_parameter": False},
    ),
    "sgdnesterov": ("torch.optim", "SGD", "torch", {"momentum": 0.9, "nesterov": True}),
}


def make_optimizer(
    name: str, arguments: Sequence[str], parameters: list[nn.Parameter], learning_rate: float
) -> Optimizer:
    """The optimizer of that name, or of that full path, such as `torch.optim.RAdam`.

    `arguments` are sd-scripts' `key=value` pairs. Raises ConfigError saying what is known, what to
    install, or which argument the optimizer does not take.
    """
    module, kind, _, defaults = OPTIMIZERS.get(name.lower(), (None, name, "", {}))
    if module is None:
        module, _, kind = name.rpartition(".")
    if not module:
        raise ConfigError(
            f"--optimizer_type is {name!r}; known are {', '.join(OPTIMIZERS)} and full paths such "
            "as torch.optim.RAdam."
        )
    try:
        factory: Any = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"--optimizer_type {name}: {error}{package_advice(name)}") from error
    if not _is_optimizer(factory):
        raise ConfigError(f"--optimizer_type {name}: {kind} is not an optimizer of PyTorch's.")
    options = {**defaults, **parse_arguments(with_fused(name, arguments, parameters))}
    try:
        return factory(parameters, lr=learning_rate, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--optimizer_args: {name} says: {error}") from error


def with_fused(
    name: str, arguments: Sequence[str], parameters: Sequence[nn.Parameter]
) -> list[str]:
    """The arguments; for AdamW with `fused=True`, one pass over each tensor, or over many.

    Not where they choose kernels themselves, nor on devices that lack such ones in some releases.
    """
    chosen = {argument.partition("=")[0] for argument in arguments}
    known = all(parameter.device.type in ("cuda", "cpu") for parameter in parameters)
    if name.lower() != "adamw" or not known or chosen & {"fused", "foreach", "differentiable"}:
        return [*arguments]
    return [*arguments, "fused=True"]


def _is_optimizer(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Optimizer)


def package_advice(name: str) -> str:
    """The end of a message about an optimizer that cannot be imported."""
    known = OPTIMIZERS.get(name.lower())
    package = known[2] if known else name.partition(".")[0]
    return f". Install it: pip install {package}"


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """`weight_decay=0.01 betas=(0.9,0.99)` -> a dictionary of Python values."""
    values = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        try:
            values[key] = ast.literal_eval(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):  # of deep nesting
            values[key] = text
        if not equals or not key.isidentifier():
            raise ConfigError(f"--optimizer_args: {shown(argument)} is not key=value.")
    return values


def make_scheduler(name: str, optimizer: Optimizer, warmup: int, steps: int) -> LRScheduler:
    """The learning rate over the steps, by diffusers' and sd-scripts' names."""
    if name not in LR_SCHEDULERS:
        raise ConfigError(
            f"--lr_scheduler is {name!r}; the standalone host knows {', '.join(LR_SCHEDULERS)}."
        )
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
