"""The grid: which cells there are, in the order of what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...tools.nuclei_crops import Crop

ALL = 0  # tiles


@dataclass(frozen=True)
class Cell:
    """One training run: a recipe, the number of real tiles (ALL for every one), and a seed.

    The seed decides which tiles are taken, the order of batches and all noise, so that the spread
    over seeds holds the luck of having been given these tiles.
    """

    recipe: str
    tiles: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.tiles or 'all'}-seed{self.seed}"

    @classmethod
    def parse(cls, name: str) -> Cell:
        """Read `name`. Raises ValueError for what is none."""
        try:
            recipe, tiles, seed = name.rsplit("-", 2)
            return cls(recipe, ALL if tiles == "all" else int(tiles), int(seed[len("seed") :]))
        except ValueError:
            expected = "RECIPE-TILES-seedN, such as published-40-seed0"
            raise ValueError(f"{name!r} is no cell; expected {expected}.") from None


def grid() -> list[Cell]:
    """All cells; with little time, the first ones say most."""
    main, others = ("mask_only", "published"), ("concat", "adaptive")
    cells = [Cell("mask_only", ALL, 0)]  # the quality gate
    cells += [Cell(recipe, 40, seed) for seed in range(3) for recipe in main]
    cells += [Cell(recipe, 40, 0) for recipe in others]
    cells += [Cell(recipe, tiles, 0) for tiles in (150, ALL) for recipe in (*main, *others)]
    cells += [Cell(recipe, 40, seed) for seed in (1, 2) for recipe in others]
    return list(dict.fromkeys(cells))


def chosen(crops: Sequence[Crop], cell: Cell) -> list[Crop]:
    """The crops of the cell's tiles; with one seed, fewer tiles are a part of more."""
    names = sorted({crop.tile for crop in crops})
    order = np.random.default_rng(cell.seed).permutation(len(names))
    taken = {names[index] for index in order[: cell.tiles or None]}
    return [crop for crop in crops if crop.tile in taken]
