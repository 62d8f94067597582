"""Quality against steps and CFG: the table that tells users what to set.

    python -m siamese_diffusion.benchmarks.ablation.sampler_settings \\
        --base nuclei_base.safetensors --bundle nuclei.safetensors --out settings.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...common.files import replacing
from ...models.weights import WeightsError
from ...tools.nuclei import one_from_each_group
from ...tools.nuclei_crops import Crop, read_crops
from .measures import alignment, colour, interval
from .sampling import Sampler

STEPS = (5, 10, 20, 50)
CFGS = (1.0, 1.5, 3.0, 4.0, 9.0)
MASKS = 32


def measure(sampler: Sampler, crops: Sequence[Crop], steps: int, cfg: float) -> dict[str, object]:
    """One row: alignment with its interval, and the seconds an image took here."""
    masks = [crop.mask for crop in crops]
    start = time.monotonic()
    images = sampler.images(masks, range(len(masks)), steps, cfg)
    seconds = time.monotonic() - start
    return {
        "steps": steps,
        "cfg": cfg,
        "alignment": interval(alignment(masks, images), [crop.group for crop in crops]),
        "colour": colour(images),
        "seconds_an_image": round(seconds / len(masks), 3),
    }


def run(base: Path, bundle: Path, out: Path) -> None:
    """Fill in the rows that `out` does not have yet, cheap ones first."""
    rows = json.loads(out.read_text("utf-8")) if out.is_file() else []
    known = {(row["steps"], row["cfg"]) for row in rows}
    sampler, crops = Sampler(base, bundle), one_from_each_group(read_crops("test"), MASKS)
    for steps in STEPS:
        for cfg in CFGS:
            if (steps, cfg) in known:
                continue
            rows.append(measure(sampler, crops, steps, cfg))
            with replacing(out) as temporary:
                temporary.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
            mean = rows[-1]["alignment"]["mean"]
            print(f"{steps} steps, CFG {cfg:g}: IoU {mean:.3f}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where a file is missing or wrong."""
    parser = argparse.ArgumentParser(prog="sampler_settings", description=(__doc__ or "")[:70])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help=".json, gone on with if it exists")
    given = parser.parse_args(argv)
    try:
        run(given.base, given.bundle, given.out)
    except (OSError, ValueError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
