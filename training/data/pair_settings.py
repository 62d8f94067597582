"""What training does with a pair in a way of its own, where the subsets of a dataset differ."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...common.pairs import Pair
from ..config import TrainConfig
from .captions import CaptionStyle
from .framing import Framing


@dataclass(frozen=True)
class PairSettings:
    """None: as the run's flags say.

    variants: captions to draw from at each step instead of the pair's own; () for that one.
    """

    framing: Framing | None = None
    caption_dropout_rate: float | None = None
    variants: tuple[str, ...] = ()


THE_RUNS = PairSettings()


def settings_of(pair: Pair) -> PairSettings:
    return pair.settings if isinstance(pair.settings, PairSettings) else THE_RUNS


def own_settings(run: TrainConfig, own: TrainConfig) -> PairSettings:
    """What differs between a subset's flags and the run's."""
    framing, rate = Framing.of(own), own.caption_dropout_rate
    return PairSettings(
        framing if framing != Framing.of(run) else None,
        rate if rate != run.caption_dropout_rate else None,
    )


def with_settings(pair: Pair, own: PairSettings, style: CaptionStyle, seed: int) -> Pair:
    """The pair with its caption in that style, and what is its own.

    Pairs without a difference compare equal to those of a dataset without any.
    """
    caption = style.caption(pair.caption)
    settings = replace(own, variants=style.variants(caption, seed))
    return replace(pair, caption=caption, settings=None if settings == THE_RUNS else settings)
