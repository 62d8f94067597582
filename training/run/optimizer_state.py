"""Whether a saved optimizer is one that training can go on with: torch takes over whatever it gets.

What does not fit would fail in the middle of a step, or turn the weights into NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...common.text import shown
from ...models.content import is_finite, plain

# What torch's own optimizers keep of each weight. Others may keep less, such as a mean of a row.
OF_EACH_WEIGHT = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
SQUARES = ("exp_avg_sq", "max_exp_avg_sq")
ADAM = (torch.optim.Adam, torch.optim.AdamW)
OF_ADAM = {"step", "exp_avg", "exp_avg_sq"}
CHOSEN_BY_DEVICE = ("foreach", "fused")  # which kernels do the arithmetic
CHANGING = ("params", "lr", "initial_lr")  # in a group of torch's own optimizers; the rest is given


def check_optimizer(
    saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, step: int, may_skip: bool
) -> None:
    """Raise ValueError or LookupError for what this optimizer cannot have saved after that step.

    may_skip: whether steps may have been left out, as with fp16.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    groups = optimizer.state_dict()["param_groups"]
    for theirs, own in zip(saved["param_groups"], groups, strict=True):
        if theirs["params"] != own["params"]:
            raise ValueError("its parameters are not those of this command")
        if missing := own.keys() & {"lr", "initial_lr"} - theirs.keys():
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        for name in own.keys() & theirs.keys() - {"params", *CHOSEN_BY_DEVICE}:
            check_like(name, theirs[name], own[name])
        if (theirs["lr"] or 0) < 0:  # None for what finds its own
            raise ValueError(f"lr is {shown(theirs['lr'])}")
    for index, values in saved["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters):
            raise ValueError(f"it has values of a parameter {shown(index)}")
        _check_values(dict(values), parameters[index], optimizer, step)
    if isinstance(optimizer, ADAM) and not saved["state"] and not may_skip:
        raise ValueError("it has no moments")


def _check_values(
    values: Mapping[str, Any], parameter: Tensor, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Of one parameter."""
    of_torch = is_of_torch(optimizer)
    if isinstance(optimizer, ADAM) and not values.keys() >= OF_ADAM:
        raise ValueError(f"moments are missing; it has {shown([*values])}")
    for name, value in values.items():
        if isinstance(value, Tensor):
            plain(str(name), value)
            if value.is_floating_point() and not is_finite(value):
                raise ValueError(f"{shown(name)} is not finite (NaN or infinity)")
        if of_torch and name == "step" and not 0 <= float(value) <= step:
            raise ValueError(f"a parameter was updated {shown(float(value))} times in {step} steps")
        if of_torch and name in OF_EACH_WEIGHT and (name in OF_ADAM or value is not None):
            if value.shape != parameter.shape or not value.is_floating_point():
                found = f"{tuple(value.shape)} of {value.dtype}"
                raise ValueError(f"{name} is {found}; expected {tuple(parameter.shape)} of floats")
            if name in SQUARES and value.numel() and value.min() < 0:
                raise ValueError(f"{name} is negative")


def is_of_torch(optimizer: torch.optim.Optimizer) -> bool:
    return type(optimizer).__module__.startswith("torch.optim.")


def with_own_settings(
    theirs: Mapping[str, Any], group: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """A saved group with what is not for the state to say: kernels, and what no step changes.

    A record of the command says that both runs were given the same.
    """
    own = group.keys() - set(CHANGING) if is_of_torch(optimizer) else CHOSEN_BY_DEVICE
    return {**theirs, **{name: group[name] for name in own if name in group}}


def schedule_to_load(saved: Mapping[str, Any], own: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Of a saved schedule what this one has too: other names would replace its methods.

    step: what the schedule must have come to. Raises ValueError or LookupError.
    """
    for name in own.keys() & saved.keys():
        check_like(name, saved[name], own[name])
    if "last_epoch" in own and saved["last_epoch"] != step:
        raise ValueError(f"its schedule is at step {shown(saved['last_epoch'])}, not {step}")
    if "base_lrs" in own and min(saved["base_lrs"]) <= 0:
        raise ValueError(f"its learning rates are {shown(saved['base_lrs'])}")
    return {name: saved.get(name, value) for name, value in own.items()}


def scaler_to_load(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What changes in a scaler of gradients, the rest as it is. Raises ValueError, LookupError."""
    changing = {name: saved[name] for name in ("scale", "_growth_tracker")}
    for name, value in changing.items():
        check_like(name, value, own[name])
    if changing["scale"] <= 0:
        raise ValueError(f"scale is {shown(changing['scale'])}")
    return {**own, **changing}


def check_like(name: str, found: Any, own: Any) -> None:
    """Raise ValueError unless a saved setting is of this command's kind, and its numbers finite."""
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    if isinstance(own, Tensor) and own.numel() == 1:
        own = own.item()
    numbers = _is_number(own) and _is_number(found)
    if numbers and (found == own or _finite(found)):
        return
    if own is None and (found is None or _is_number(found)):
        return
    if isinstance(own, Mapping) and isinstance(found, Mapping):
        for key in own.keys() & found.keys():
            check_like(f"{name}.{key}", found[key], own[key])
    elif _is_list(own) and _is_list(found) and len(own) == len(found):
        for each, expected in zip(found, own, strict=True):
            check_like(name, each, expected)
    elif _is_number(own) or _is_list(own) or type(found) is not type(own):
        raise ValueError(f"{shown(name)} is {shown(found)}; expected such as {shown(own)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
