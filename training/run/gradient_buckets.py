"""Adding up the gradients of several processes, in few large pieces instead of one a tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, distributed, nn

BUCKET_BYTES = 64 << 20  # large enough for the full rate of a network, small beside the gradients
IN_FLIGHT = 2  # buckets that are sent while the next is filled


def make_buckets(
    parameters: Sequence[nn.Parameter], size: int | None = None
) -> list[list[nn.Parameter]]:
    """The parameters in their order, cut so that each bucket begins within one span of `size`.

    size: in bytes; default: BUCKET_BYTES.
    """
    size = size or BUCKET_BYTES
    start, numbers = 0, []
    for parameter in parameters:
        numbers.append(start // size)
        start += parameter.numel() * parameter.element_size()
    numbered = zip(numbers, parameters, strict=True)
    return [[p for _, p in group] for _, group in groupby(numbered, key=lambda item: item[0])]


def sum_gradients(buckets: Sequence[Sequence[nn.Parameter]]) -> None:
    """Let every process have the sum of all processes' gradients; called on all of them.

    A gradient that a process has not computed counts as zero: none of its samples was augmented,
    say.
    """
    sent: deque[tuple[list[Tensor], Tensor, distributed.Work]] = deque()
    for bucket in buckets:
        gradients = [_gradient(parameter) for parameter in bucket]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        sent.append((gradients, flat, distributed.all_reduce(flat, async_op=True)))
        if len(sent) > IN_FLIGHT:
            _receive(*sent.popleft())
    while sent:
        _receive(*sent.popleft())


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _receive(gradients: list[Tensor], flat: Tensor, work: distributed.Work) -> None:
    work.wait()
    parts = flat.split([gradient.numel() for gradient in gradients])
    sums = [part.view_as(own) for part, own in zip(parts, gradients, strict=True)]
    torch._foreach_copy_(gradients, sums)
