"""What a dataset holds, as a table for people: `--dry_run` prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ...common.pictures import Size
from .dataset import Dataset
from .framing import Framing
from .pair_settings import settings_of


@dataclass(frozen=True)
class DatasetSummary:
    """Numbers of one dataset.

    pairs counts repeats, distinct does not. sizes, training_sizes: (width, height) in pixels ->
    pairs. coverage: smallest, median and largest share of a mask that is not black.
    """

    pairs: int
    distinct: int
    sizes: Mapping[Size, int]
    training_sizes: Mapping[Size, int]
    coverage: tuple[float, float, float]
    empty_masks: int
    classes: Mapping[str, str]
    captions: int
    empty_captions: int

    @classmethod
    def of(cls, dataset: Dataset, framing: Framing) -> DatasetSummary:
        distinct = list(dict.fromkeys(dataset.pairs))
        infos = [dataset.infos[pair] for pair in distinct]
        shares = [info.coverage for info in infos]
        captions = [pair.caption for pair in distinct]
        trained = [
            (settings_of(pair).framing or framing).training_size(dataset.infos[pair].size)
            for pair in dataset.pairs
        ]
        return cls(
            pairs=len(dataset.pairs),
            distinct=len(distinct),
            sizes=Counter(info.size for info in infos),
            training_sizes=Counter(trained),
            coverage=(min(shares), median(shares), max(shares)),
            empty_masks=shares.count(0.0),
            classes=dataset.mask_classes(),
            captions=len(set(captions)),
            empty_captions=captions.count(""),
        )

    def render(self) -> str:
        """A table of two columns."""
        rows = [("pairs", self._pairs()), ("image sizes", self._sizes())]
        rows += [
            ("trained at" if not number else "", f"{_text(size)} ({count})")
            for number, (size, count) in enumerate(sorted(self.training_sizes.items()))
        ]
        low, middle, high = (f"{share:.1%}" for share in self.coverage)
        rows.append(("mask coverage", f"{low} to {high}, median {middle}"))
        rows.append(("empty masks", str(self.empty_masks)))
        rows += [
            ("classes" if not number else "", f"{value}: {name}")
            for number, (value, name) in enumerate(self.classes.items())
        ]
        rows.append(("captions", f"{self.captions} distinct; empty: {self.empty_captions}"))
        return "\n".join(f"{name:<18}{value}".rstrip() for name, value in rows)

    def _pairs(self) -> str:
        repeated = f" ({self.distinct} distinct)" if self.distinct != self.pairs else ""
        return f"{self.pairs}{repeated}"

    def _sizes(self) -> str:
        if len(self.sizes) == 1:
            return f"all {_text(next(iter(self.sizes)))}"
        by_area = sorted(self.sizes, key=lambda size: size[0] * size[1])
        common = max(self.sizes, key=lambda size: self.sizes[size])
        return (
            f"{_text(by_area[0])} to {_text(by_area[-1])}, {len(self.sizes)} different; most "
            f"common {_text(common)} ({self.sizes[common]})"
        )


def describe_counts(counts: Sequence[int], buckets: bool) -> str:
    """How often the pairs are seen in a run, and the factor between most and least often."""
    least, most = min(counts), max(counts)
    if not least:
        # A bucket with fewer images than a batch has to wait for its first batch.
        others = "with smaller batches, or without --enable_bucket"
        return (
            f"0 to {most} times; {counts.count(0)} of {len(counts)} pairs are never seen: train "
            f"more steps, {others if buckets else 'or with larger batches'}"
        )
    times = str(most) if least == most else f"{least} to {most}"
    return f"{times} times (most / least: {most / least:.2f})"


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
