"""Run the benchmarks, print their tables, and keep the results.

python -m siamese_diffusion.benchmarks                 # all; results/*.json and docs
python -m siamese_diffusion.benchmarks step --rounds 9
python -m siamese_diffusion.benchmarks --tiny          # only shows that they run
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from .caching import measure_caching
from .data import measure_data
from .files import measure_files
from .gpu import measure_gpu
from .items import measure_items
from .loading import measure_loading
from .memory import measure_memory
from .report import RESULTS, SCALE_DOCS, Result, quote_in_docs, read_results, table
from .sampling import measure_sampling
from .settings import measure_settings
from .step import measure_step
from .synthesis import measure_synthesis
from .workload import NANO, SD15, SMALL, TINY, Scale

THREADS = 2  # of the CPU, on any machine: the ratios are to be comparable
CPU_SCALE = Scale("nano SD 1.5", NANO, batch=5, pixels=128, rounds=9)
SAMPLING_SCALE = replace(CPU_SCALE, batch=1, rounds=3)
GPU_SCALE = Scale("SD 1.5", SD15, batch=10, pixels=384, rounds=9)
FILES_SCALE = Scale("a UNet of 64 and 128 channels", SMALL, batch=1, pixels=64, rounds=1)
DATA_SCALE = replace(CPU_SCALE, pixels=384)
LOADING_SCALE = Scale("SD 1.5", SD15, batch=1, pixels=384, rounds=5)
MEMORY_SCALE = Scale("SD 1.5", SD15, batch=5, pixels=384, rounds=1)
SETTINGS_SCALE = GPU_SCALE if torch.cuda.is_available() else replace(CPU_SCALE, pixels=96, rounds=3)
TINY_SCALE = Scale("tiny", TINY, batch=5, pixels=16, rounds=1)


def _gpu(scale: Scale, tiny: bool) -> Result | None:
    if torch.cuda.is_available():
        return measure_gpu(scale)
    if tiny:
        return measure_gpu(scale, device="cpu", compiled=False)
    print("gpu: no GPU here, skipped")
    return None


def _settings(scale: Scale, tiny: bool) -> Result:
    device = "cuda" if torch.cuda.is_available() and not tiny else "cpu"
    return measure_settings(scale, device)


BENCHMARKS: dict[str, tuple[Scale, Callable[[Scale, bool], Result | None]]] = {
    "step": (CPU_SCALE, lambda scale, _tiny: measure_step(scale)),
    "caching": (CPU_SCALE, lambda scale, tiny: measure_caching(scale, full=not tiny)),
    "sampling": (SAMPLING_SCALE, measure_sampling),
    "synthesis": (SAMPLING_SCALE, measure_synthesis),
    "items": (SAMPLING_SCALE, lambda _scale, tiny: measure_items(tiny)),
    "settings": (SETTINGS_SCALE, _settings),
    "files": (FILES_SCALE, measure_files),
    "loading": (LOADING_SCALE, measure_loading),
    "data": (DATA_SCALE, measure_data),
    "memory": (MEMORY_SCALE, lambda scale, _tiny: measure_memory(scale)),
    "gpu": (GPU_SCALE, _gpu),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m siamese_diffusion.benchmarks",
        description="Speed and memory of training and sampling, ours against the published way.",
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; all")
    parser.add_argument("--rounds", type=int, help="how often each side runs (9 or fewer)")
    parser.add_argument("--batch", type=int, help="a multiple of 5 (5; on a GPU 10)")
    parser.add_argument("--tiny", action="store_true", help="see that everything runs, in seconds")
    parser.add_argument("--out", type=Path, help="folder for the JSON instead of the repository's")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    if arguments.batch and arguments.batch % 5:
        parser.error(f"--batch {arguments.batch}: must be a multiple of 5, of which 1 is augmented")
    if arguments.tiny and not arguments.out:
        parser.error("--tiny needs --out: its results must not replace real ones")
    torch.set_num_threads(THREADS)
    for name in arguments.names or BENCHMARKS:
        scale, measure = BENCHMARKS[name]
        scale = TINY_SCALE if arguments.tiny else scale
        rounds, batch = arguments.rounds or scale.rounds, arguments.batch or scale.batch
        result = measure(replace(scale, rounds=rounds, batch=batch), arguments.tiny)
        if result:
            print(table(result))
            result.write(arguments.out or RESULTS)
    if not arguments.out:
        results = read_results(RESULTS)
        quote_in_docs(results)
        quote_in_docs((result for result in results if result.name == "items"), SCALE_DOCS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
