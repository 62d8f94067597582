"""The exponential moving average (EMA) of the trained weights, as previews and bundles show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import Tensor, nn


@contextmanager
def ema_weights(ema: EMAModel | None, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Within it the parameters have the EMA's values, where there is one."""
    if ema is None:
        yield
        return
    ema.store(parameters)
    try:
        ema.copy_to(parameters)
        yield
    finally:
        ema.restore(parameters)


def ema_values(
    ema: EMAModel, parameters: list[nn.Parameter], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The EMA of tensors that are those of the parameters, or views of all their values."""
    pairs = zip(parameters, ema.shadow_params, strict=True)
    averages = {parameter.data_ptr(): average for parameter, average in pairs}
    return {key: averages[value.data_ptr()].view_as(value) for key, value in tensors.items()}


def set_ema(ema: EMAModel, parameters: list[nn.Parameter], step: int) -> None:
    """Let the EMA be what the parameters hold, as it was after that many steps."""
    ema.shadow_params = [parameter.detach().clone() for parameter in parameters]
    ema.optimization_step = step
