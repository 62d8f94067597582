"""How it is measured: time, memory, forward passes, and the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ..training.method.networks import SiameseNetworks

# Timing


def interleave(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device | str = "cpu",
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each side in each round; without those of `before`, which runs before each.

    The sides take turns, so that whatever else the machine does slows them all alike. Each runs
    once before, unmeasured.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            before()
            started = _now(device)
            side()
            elapsed = _now(device) - started
            if number:
                seconds[name].append(elapsed)
    return seconds


def _now(device: torch.device | str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def median_ratio(ours: Sequence[float], published: Sequence[float]) -> float:
    """Median over the rounds of ours / published, both measured in the same round."""
    return statistics.median(a / b for a, b in zip(ours, published, strict=True))


# Memory


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of tensors alive: exact, and the same on every machine.

    What `known` holds is not counted. Left out: scratch memory inside an operation.
    """

    def __init__(self, known: nn.Module) -> None:
        super().__init__()
        tensors = [*known.parameters(), *known.buffers()]
        self._seen = {tensor.untyped_storage()._cdata for tensor in tensors}
        self.live = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        # Inputs too: copies of modules are made outside of the dispatcher.
        self._count((args, kwargs))
        result = func(*args, **kwargs)
        self._count(result)
        return result

    def _count(self, tree: Any) -> None:
        for tensor in tree_iter(tree):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._seen:
                self._seen.add(key)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def peak_memory(nets: nn.Module, run: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once during `run`, above the networks' own."""
    device = next(nets.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with TensorMemory(nets) as memory:
        run()
    return memory.peak


def step_memory(make: Callable[[], Callable[[], object]], device: torch.device | str) -> int:
    """Most bytes of tensors alive during a step, all included: weights, optimizer, average.

    `make` makes the step. It is run once before, so that the optimizer has its state.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        step = make()
        step()
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    step = make()
    with TensorMemory(nn.Module()) as memory:
        step()
        memory.peak = memory.live
        step()
    return memory.peak


# Counting


@contextmanager
def count_forwards(nets: SiameseNetworks) -> Iterator[Counter[str]]:
    """Samples that pass through C, E and D, copies of them included."""
    counter: Counter[str] = Counter()

    def counted(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            counter[name] += len(output)

        return hook

    # One layer of each, through which every forward pass goes once.
    layers = {"C": nets.controlnet.conv_in, "E": nets.unet.conv_in, "D": nets.unet.conv_out}
    handles = [layer.register_forward_hook(counted(name)) for name, layer in layers.items()]
    try:
        yield counter
    finally:
        for handle in handles:
            handle.remove()


# Operations that compute nothing, beside views.
NO_WORK = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach"}


class Operations(TorchDispatchMode):
    """Counts PyTorch's operations, but for views and for memory that is only taken."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.count += not func.is_view and func.overloadpacket.__name__ not in NO_WORK
        return func(*args, **(kwargs or {}))


def count_launches(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Kernels that `run` launches on a GPU; on a CPU the operations, each one or more of them."""
    if torch.device(device).type == "cuda":
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            run()
            torch.cuda.synchronize(device)
        return sum(event.count for event in profile.key_averages() if "LaunchKernel" in event.key)
    with Operations() as operations:
        run()
    return operations.count


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    facts = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts
