"""The grid: which cells there are, in the order of what they are worth."""

from __future__ import annotations

from dataclasses import dataclass

ALL = 0  # tiles

# What an arm changes in the trainer's command; the rest is equal.
ARMS: dict[str, dict[str, str]] = {
    "mask_only": {"recipe": "mask_only"},
    "published": {"recipe": "published"},
    "concat": {"recipe": "concat"},
    "adaptive": {"recipe": "adaptive"},
    "constant_w": {"recipe": "published", "image_weight": "constant"},
    "no_augmentation": {"recipe": "published", "augmentation": "none"},
    "mask_only_longer": {"recipe": "mask_only"},  # as long as `published` takes, in time
}
LONGER = 1.8  # time of a step of `published` over that of `mask_only`, measured: docs/benchmarks.md
MAIN = ("mask_only", "published")


@dataclass(frozen=True)
class Cell:
    """One training run: an arm, the number of real tiles (ALL for every one), and a seed.

    The seed decides which tiles are taken, the order of batches and all noise, so that the spread
    over seeds holds the luck of having been given these tiles.
    """

    arm: str
    tiles: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.tiles or 'all'}-seed{self.seed}"

    @property
    def makes_pairs(self) -> bool:
        """Whether segmenters are trained on what it samples."""
        return self.arm in MAIN

    def steps(self, steps: int) -> int:
        """Training steps, where others take `steps`."""
        return round(LONGER * steps) if self.arm == "mask_only_longer" else steps

    @classmethod
    def parse(cls, name: str) -> Cell:
        """Read `name`. Raises ValueError for what is none."""
        try:
            arm, tiles, seed = name.rsplit("-", 2)
            cell = cls(arm, ALL if tiles == "all" else int(tiles), int(seed[len("seed") :]))
        except ValueError:
            cell = None
        if cell is None or cell.arm not in ARMS:
            expected = f"ARM-TILES-seedN, such as published-40-seed0, ARM one of {', '.join(ARMS)}"
            raise ValueError(f"{name!r} is no cell; expected {expected}.")
        return cell


def grid() -> list[Cell]:
    """All cells; with little time, the first ones say most."""
    others = [arm for arm in ARMS if arm not in MAIN]
    cells = [Cell(arm, 40, seed) for seed in range(3) for arm in MAIN]
    cells += [Cell(arm, 40, 0) for arm in others]
    cells += [Cell(arm, tiles, 0) for tiles in (150, ALL) for arm in MAIN]
    cells += [Cell(arm, 40, seed) for seed in (1, 2) for arm in others]
    cells += [Cell(arm, tiles, 0) for tiles in (150, ALL) for arm in ("concat", "adaptive")]
    cells += [Cell(arm, tiles, seed) for seed in (1, 2) for tiles in (150, ALL) for arm in MAIN]
    return cells
