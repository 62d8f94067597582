"""Do the sampled pairs help a segmenter? The grid's own pairs, over several draws of real tiles.

    python -m siamese_diffusion.benchmarks.ablation.downstream OUT --tiles 40 --seeds 0 1 2

OUT is the grid's folder. For each seed the real pairs are those that the cells of that seed were
trained on; the pairs of every cell are compared with them, as `siamese-evaluate` does. Figures are
pooled over the seeds: an interval holds the luck of the draw of tiles, of training, and of the
test images. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...common.files import replacing
from ...common.pairs import DatasetError
from ...common.prompt_jsonl import read_prompt_jsonl
from ...evaluation.alignment import judge
from ...evaluation.arms import BASELINE
from ...evaluation.command_line import band
from ...evaluation.contrast import Fifths
from ...evaluation.downstream import ALL, Downstream, measure_downstream, over_segmenters
from ...evaluation.intervals import bootstrap
from ...evaluation.overlap import METRICS
from ...evaluation.pair_sets import PairSet, load_pairs
from ...evaluation.scores import keep
from ...evaluation.segmenters import predict
from ...evaluation.settings import Settings
from ...evaluation.splits import split
from ...tools.nuclei_crops import SIZE, Crop, of_tiles, read_crops
from .cells import MAIN, Cell
from .crop_sets import crop_set, dimmed
from .run_cell import AUGMENTED, RANDOM

# Sets of pairs by name: the cell that has made them, and its folder of them.
SETS = {arm: (arm, AUGMENTED) for arm in MAIN} | {f"{arm}_random": (arm, RANDOM) for arm in MAIN}
# Real pairs in their place: what a perfect generator would add.
OTHER_TILES = "other_tiles"
# With contrast taken from their images at random: what pairs of few tiles lack. `real` are those
# that segmenters train on.
REAL, DIMMED = "real", "_dimmed"
# Each real pair several times, with another contrast each: nearly what augmentation alone can do.
REPEATED = f"{REAL}{DIMMED}_repeated"
FOR_A_REAL_ONE = 5  # pairs in the sets that take the place of sampled ones
CHOICES = (*SETS, OTHER_TILES, *(f"{name}{DIMMED}" for name in (*MAIN, REAL)), REPEATED)


@dataclass(frozen=True)
class Draw:
    """One draw of real tiles, and the pairs of the cells trained on them, by arm."""

    real: PairSet
    synthetic: dict[str, PairSet]


def read_draw(out: Path, tiles: int, seed: int, arms: Sequence[str]) -> Draw:
    """Raises DatasetError or OSError for pairs that are not there."""
    train = read_crops("train")
    real = of_tiles(train, tiles, seed)

    def read_set(name: str) -> PairSet:
        if name.endswith(DIMMED):
            return dimmed(read_set(name.removesuffix(DIMMED)), name, seed)
        if name == REPEATED:
            pairs = read_set(REAL)
            return dimmed(pairs.take(np.tile(range(len(pairs)), FOR_A_REAL_ONE)), name, seed)
        if name == REAL:
            return split(crop_set(REAL, real), Settings.validation_share, seed)[0]
        if name == OTHER_TILES:
            return crop_set(name, other_tiles(train, real, seed))
        cell, folder = SETS[name]
        index = out / Cell(cell, tiles, seed).name / folder / "prompt.jsonl"
        return load_pairs(name, read_prompt_jsonl(index).pairs, SIZE)

    return Draw(crop_set(REAL, real), {arm: read_set(arm) for arm in arms})


def other_tiles(train: Sequence[Crop], real: Sequence[Crop], seed: int) -> list[Crop]:
    """Crops of tiles that the draw does not have."""
    taken = {crop.tile for crop in real}
    others = [crop for crop in train if crop.tile not in taken]
    order = np.random.default_rng(seed).permutation(len(others))
    return [others[index] for index in order[: FOR_A_REAL_ONE * len(real)]]


def pooled(found: Sequence[Downstream]) -> list[dict[str, Any]]:
    """A row for each arm: means, and paired differences to real + augmentation, over all draws."""
    return [{"arm": arm, **_figures(found, arm, BASELINE)} for arm in arms_of(found)]


def arms_of(found: Sequence[Downstream]) -> list[str]:
    """Those that all draws have: the filter may leave one of them too few pairs for a ratio."""
    return [arm.name for arm in found[0].arms if all(arm.name in one.values for one in found)]


def rival(arm: str) -> str:
    """The arm that one is compared with beside real + augmentation, if it is there: the other
    recipe's, or that of real pairs dimmed alike."""
    for made in MAIN:
        arm = arm.replace(made + DIMMED, REAL + DIMMED)
    return arm.replace("published", "mask_only")


def compared(found: Sequence[Downstream], first: str, second: str) -> dict[str, Any]:
    """Paired differences of an arm to another one, over all draws."""
    return {"arm": first, "against": second, **_figures(found, first, second)}


def _figures(found: Sequence[Downstream], arm: str, base: str) -> dict[str, Any]:
    groups = found[0].test.groups
    figures: dict[str, Any] = {}
    for name in (*found[0].values[arm], ALL):
        mine, others = (_values(found, each, name) for each in (arm, base))
        figures[name] = {
            metric: {
                "mean": float(mine[..., index].mean()),
                "of_each_training": _of_each_training(found, arm, name, index),
                "difference": asdict(bootstrap((mine - others)[..., index], 0, groups)),
            }
            for index, metric in enumerate(METRICS)
        }
    return figures


def _values(found: Sequence[Downstream], arm: str, segmenter: str) -> np.ndarray:
    """(draws, test images, metrics), each draw the mean of its trainings, which share its luck; of
    a single draw (trainings, test images, metrics)."""
    each = [over_segmenters(one.values[arm], segmenter) for one in found]
    return each[0] if len(each) == 1 else np.stack([values.mean(0) for values in each])


def _of_each_training(
    found: Sequence[Downstream], arm: str, segmenter: str, metric: int
) -> list[float]:
    each = [over_segmenters(one.values[arm], segmenter)[..., metric].mean(1) for one in found]
    means: list[float] = np.concatenate(each).round(4).tolist()
    return means


def by_contrast(found: Sequence[Downstream], fifths: Fifths) -> dict[str, list[dict[str, Any]]]:
    """Each arm's paired differences in Dice to real + augmentation, over all draws."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for arm in arms_of(found):
        differences = _values(found, arm, ALL) - _values(found, BASELINE, ALL)
        in_fifths = fifths.differences(differences[..., METRICS.index("dice")], 0)
        rows[arm] = [
            {"contrast": ends, "difference": difference}
            for ends, difference in zip(fifths.ranges, in_fifths, strict=True)
        ]
    return rows


def sets_of(found: Downstream) -> list[PairSet]:
    """What segmenters train on, real and sampled, and what they are tested on."""
    synthetic = [arm.synthetic for arm in found.arms if arm.synthetic and arm.ratio is None]
    return [found.training, found.test, *synthetic]


def seen_outside(found: Downstream) -> dict[str, float]:
    """Of each set of pairs: what segmenters of the real pairs see outside the mask, as a share of
    the mask's area; the mean over the pairs."""
    shares = {}
    for pairs in sets_of(found):
        seen = np.stack([predict(segmenter, pairs.images) for segmenter in found.judges])
        outside = (seen & ~pairs.masks).sum((2, 3)) / pairs.masks.sum((1, 2))
        shares[pairs.name] = float(outside.mean())
    return shares


def measure(given: argparse.Namespace) -> list[Downstream]:
    """Each draw. Raises OSError or DatasetError for pairs that are missing or wrong."""
    test, found = crop_set("test", read_crops("test")), []
    for seed in given.seeds:
        draw = read_draw(given.out, given.tiles, seed, given.arms)
        settings = Settings(
            resolution=SIZE,
            seed=seed,
            seeds=given.repetitions,
            segmenters=tuple(given.segmenters),
            ratios=tuple(given.ratios),
            steps=given.steps,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        runs, sets = given.out / "segmenters", [*draw.synthetic.values()]
        one = measure_downstream(draw.real, test, sets, settings, runs, given.jobs)
        if given.keep is not None:
            for pairs in draw.synthetic.values():
                judgement = judge(one.judges, pairs.images, pairs.masks)
                sets.append(keep(pairs, judgement, given.keep))
                print(f"{pairs.name}, draw {seed}: {len(sets[-1])} of {len(pairs)} kept")
            one = measure_downstream(draw.real, test, sets, settings, runs, given.jobs)
        found.append(one)
    return found


def as_content(given: argparse.Namespace, found: Sequence[Downstream]) -> dict[str, Any]:
    arms = arms_of(found)
    fifths = Fifths.of(found[0].test)
    return {
        "tiles": given.tiles or "all",
        "seeds": given.seeds,
        "settings": asdict(found[0].settings),
        "keep": given.keep and asdict(given.keep),
        "real_pairs": [len(one.training) + len(one.validation) for one in found],
        "arms": pooled(found),
        "arms_of_each_draw": [pooled([one]) for one in found],
        "compared": [
            compared(found, arm, other)
            for arm in arms
            if (other := rival(arm)) != arm and other in arms
        ],
        "seen_outside": [seen_outside(one) for one in found],
        "contrast": [{pairs.name: fifths.shares(pairs) for pairs in sets_of(one)} for one in found],
        "by_contrast": by_contrast(found, fifths),
    }


def file_name(given: argparse.Namespace) -> str:
    """Names what is not as usual: other arms than the recipes, and draws that leave some out."""
    arms = [] if given.arms == list(MAIN) else given.arms
    some = given.seeds != list(range(len(given.seeds)))
    draws = ["draws", *map(str, given.seeds)] if some else []
    return "-".join(["downstream", str(given.tiles or "all"), *given.segmenters, *arms, *draws])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where pairs are missing or wrong."""
    given = parse_args(argv)
    try:
        content = as_content(given, measure(given))
    except (OSError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = given.out / f"{file_name(given)}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    for row in content["arms"]:
        dice = row["all"]["dice"]
        change = dice["difference"]
        print(
            f"{row['arm']:<28} Dice {dice['mean']:.4f}, difference {change['mean']:+.4f} "
            f"({change['low']:+.4f} to {change['high']:+.4f})"
        )
    print(path)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="downstream", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the grid's folder")
    parser.add_argument("--tiles", type=int, default=40, help="40; 0 for all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="0 1 2")
    parser.add_argument(
        "--arms", nargs="+", choices=CHOICES, default=list(MAIN), help="sets of pairs"
    )
    parser.add_argument(
        "--keep", type=band, metavar="LOW,HIGH",
        help="also with the synthetic pairs alone that siamese-evaluate would keep",
    )  # fmt: skip
    parser.add_argument("--ratios", type=float, nargs="+", default=list(Settings.ratios))
    parser.add_argument("--segmenters", nargs="+", default=list(Settings.segmenters))
    parser.add_argument("--steps", type=int, default=Settings.steps, help=str(Settings.steps))
    parser.add_argument("--repetitions", type=int, default=1, help="trainings on each draw (1)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (1)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
