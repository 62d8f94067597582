"""Quality against sampler, steps and CFG: the table that tells users what to set.

    python -m siamese_diffusion.benchmarks.ablation.sampler_settings OUT \\
        --base nuclei_base.safetensors --bundle nuclei.safetensors

OUT is the grid's folder; OUT/sampler_settings.json is gone on with if it exists.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

from ...common.files import replacing
from ...models.weights import WeightsError
from ...tools.nuclei import one_from_each_group
from ...tools.nuclei_crops import Crop, read_crops
from ...training.method.noise_schedule import BETA_END, BETA_START, TIMESTEPS
from .likeness import Likeness
from .measures import alignment, colour, interval
from .sampling import Sampler

STEPS, CFGS = (5, 10, 20, 50), (1.0, 1.5, 3.0, 4.0, 9.0)
FEW_STEPS, FEW_CFGS = (5, 10, 20), (1.5, 4.0)
SCHEDULE = {
    "num_train_timesteps": TIMESTEPS,
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
# By ComfyUI's names: sampler, then scheduler.
SAMPLERS: dict[str, Callable[[], Any] | None] = {
    "ddim, ddim_uniform": None,  # the published one
    "euler, normal": partial(EulerDiscreteScheduler, **SCHEDULE),
    "dpmpp_2m, karras": partial(DPMSolverMultistepScheduler, **SCHEDULE, use_karras_sigmas=True),
    "uni_pc, normal": partial(UniPCMultistepScheduler, **SCHEDULE),
}

Setting = tuple[str, int, float]  # sampler, steps, CFG


def settings() -> Iterator[Setting]:
    """Cheap ones first."""
    first, *others = SAMPLERS
    for steps in STEPS:
        for cfg in CFGS:
            yield first, steps, cfg
    for sampler in others:
        for steps in FEW_STEPS:
            for cfg in FEW_CFGS:
                yield sampler, steps, cfg


def measure(
    sampler: Sampler, crops: Sequence[Crop], likeness: Likeness, setting: Setting
) -> dict[str, object]:
    """One row: alignment with its interval, likeness, and the seconds an image took here."""
    name, steps, cfg = setting
    masks = [crop.mask for crop in crops]
    make, start = SAMPLERS[name], time.monotonic()
    scheduler = None if make is None else partial(_with_steps, make)
    images = sampler.images(masks, range(len(masks)), steps=steps, cfg=cfg, scheduler=scheduler)
    seconds = time.monotonic() - start
    return {
        "sampler": name,
        "steps": steps,
        "cfg": cfg,
        "alignment": interval(alignment(masks, images), [crop.group for crop in crops]),
        "fidelity": likeness.fidelity(images),
        "colour": colour(images),
        "seconds_an_image": round(seconds / len(masks), 4),
    }


def _with_steps(make: Callable[[], Any], steps: int) -> Any:
    scheduler = make()
    scheduler.set_timesteps(steps)
    return scheduler


def run(out: Path, base: Path, bundle: Path, masks: int) -> Path:
    """Fill in the rows that the file does not have yet."""
    path = out / "sampler_settings.json"
    rows = json.loads(path.read_text("utf-8")) if path.is_file() else []
    known = {(row["sampler"], row["steps"], row["cfg"]) for row in rows}
    sampler, likeness = Sampler(base, bundle), Likeness(out)
    crops = one_from_each_group(read_crops("test"), masks)
    for setting in settings():
        if setting in known:
            continue
        rows.append(measure(sampler, crops, likeness, setting))
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
        found = rows[-1]
        mean, kid = found["alignment"]["mean"], found["fidelity"]["kid"]
        print(f"{setting}: IoU {mean:.3f}, KID {kid:.3f}", flush=True)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where a file is missing or wrong."""
    parser = argparse.ArgumentParser(prog="sampler_settings", description=(__doc__ or "")[:70])
    parser.add_argument("out", type=Path, help="the grid's folder")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--masks", type=int, default=512, help="of the test split (512)")
    given = parser.parse_args(argv)
    try:
        print(run(given.out, given.base, given.bundle, given.masks))
    except (OSError, ValueError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
