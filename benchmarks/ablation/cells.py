"""The grid: which cells there are, in the order of what they are worth."""

from __future__ import annotations

from dataclasses import dataclass

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
