"""What is written where: pairs in folders, or packed into WebDataset shards (tar)."""

from __future__ import annotations

import io
import json
import math
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..common.files import replacing
from ..common.pair_files import PairFiles
from ..common.prompt_jsonl import Entry
from ..common.text import printable
from ..common.text_files import parse_json, read_text
from .errors import StoppedError
from .plan import Item, Plan
from .settings import Shard
from .shard import ImageModel, Masking, Outcome, synthesize_shard

PREFIXES_FROM = 100_000  # pairs; no folder holds more than a few thousand files
PAIRS_PER_TAR = 1000
STAGING = ".staging"  # pairs of tar files that are not complete
UNTOLD = "left out (--anonymous)"  # written in place of a message that names files
BATCHES_AT_ONCE = 4  # that a worker takes: a lost one costs little, and batches are full


class Job(Protocol):
    """A run's pairs in units that are done one by one; workers get it whole."""

    @property
    def plan(self) -> Plan: ...

    @property
    def folder(self) -> Path:
        """Where the pairs go."""

    @property
    def masking(self) -> Masking:
        """How their masks are read."""

    @property
    def batch_size(self) -> int:
        """Images that are sampled at once."""

    @property
    def chunk(self) -> int:
        """Units that a worker takes at once."""

    def __len__(self) -> int:
        """Number of units."""

    def unit_name(self, unit: int) -> str:
        """Decides the unit's shard."""

    def pairs(self, units: Sequence[int]) -> int:
        """How many pairs they have together; the units in rising order."""

    def make(self, units: Iterable[int], model: ImageModel) -> Iterator[Outcome]:
        """Make what is missing; an outcome for each pair."""

    def items(self, unit: int) -> Iterator[Item]:
        """The unit's pairs, in the plan's order."""

    def entry(self, unit: int, item: Item) -> Entry:
        """The pair's line in prompt.jsonl."""


def units_of(job: Job, shard: Shard) -> Sequence[int]:
    """The units that a shard has."""
    everything = range(len(job))
    if shard.count == 1:
        return everything
    return [unit for unit in everything if job.unit_name(unit) in shard]


@dataclass(frozen=True)
class FolderJob:
    """images/ and masks/; a unit is a pair."""

    plan: Plan
    files: PairFiles
    masking: Masking
    batch_size: int

    @property
    def folder(self) -> Path:
        return self.files.folder

    @property
    def chunk(self) -> int:
        return BATCHES_AT_ONCE * self.batch_size

    def __len__(self) -> int:
        return len(self.plan)

    def unit_name(self, unit: int) -> str:
        return self.plan.name(unit)

    def pairs(self, units: Sequence[int]) -> int:
        return len(units)

    def make(self, units: Iterable[int], model: ImageModel) -> Iterator[Outcome]:
        items = map(self.plan.item, units)
        yield from synthesize_shard(items, model, self.files, self.masking, self.batch_size)

    def items(self, unit: int) -> Iterator[Item]:
        yield self.plan.item(unit)

    def entry(self, _unit: int, item: Item) -> Entry:
        return Entry(self.files.source(item.name), self.files.target(item.name), item.told_caption)


@dataclass(frozen=True)
class TarJob:
    """pairs-00000.tar, ...; a unit is such a file, in which the plan's pairs follow each other.

    In WebDataset's terms a sample has the parts image.png, mask.png and txt, its caption. Pairs are
    first written to a folder of their own, so that little is lost when a run ends early.
    """

    plan: Plan
    folder: Path
    masking: Masking
    batch_size: int
    chunk: int = 1
    pairs_per_tar: int = PAIRS_PER_TAR

    def __len__(self) -> int:
        return math.ceil(len(self.plan) / self.pairs_per_tar)

    def unit_name(self, unit: int) -> str:
        return f"pairs-{unit:05}.tar"

    def pairs(self, units: Sequence[int]) -> int:
        """Every file but the last of all is full."""
        if not units:
            return 0
        return (len(units) - 1) * self.pairs_per_tar + len(self._numbers(units[-1]))

    def make(self, units: Iterable[int], model: ImageModel) -> Iterator[Outcome]:
        for unit in units:
            if (self.folder / self.unit_name(unit)).exists():
                failed = self._read_failed(unit)
                for item in self.items(unit):
                    problem = failed.get(item.name)
                    yield Outcome(item.name, "failed" if problem else "there", problem or "")
            else:
                yield from self._make_tar(unit, model)

    def items(self, unit: int) -> Iterator[Item]:
        return map(self.plan.item, self._numbers(unit))

    def entry(self, unit: int, item: Item) -> Entry:
        stem = f"{self.unit_name(unit)}/{sample_key(item.name)}"
        return Entry(f"{stem}.mask.png", f"{stem}.image.png", item.told_caption)

    def _numbers(self, unit: int) -> range:
        first = unit * self.pairs_per_tar
        return range(first, min(first + self.pairs_per_tar, len(self.plan)))

    def _make_tar(self, unit: int, model: ImageModel) -> Iterator[Outcome]:
        staging = PairFiles(self.folder / STAGING / self.unit_name(unit))
        failed = {}
        items = self.items(unit)
        for outcome in synthesize_shard(items, model, staging, self.masking, self.batch_size):
            if outcome.state == "failed":
                failed[outcome.name] = UNTOLD if self.plan.anonymous else outcome.problem
            yield outcome
        self._failed_file(unit).parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._failed_file(unit)) as temporary:
            text = json.dumps(failed, ensure_ascii=False)
            temporary.write_text(printable(text), encoding="utf-8")
        with replacing(self.folder / self.unit_name(unit)) as temporary:
            whole = (item for item in self.items(unit) if item.name not in failed)
            write_tar(temporary, staging, whole)
        shutil.rmtree(staging.folder, ignore_errors=True)

    def _failed_file(self, unit: int) -> Path:
        return self.folder / "shards" / f"{self.unit_name(unit)}.failed.json"

    def _read_failed(self, unit: int) -> dict[str, str]:
        path = self._failed_file(unit)
        if not path.exists():
            return {}
        try:
            return checked_problems(read_object(path))
        except (OSError, ValueError) as error:
            raise StoppedError(
                f"{path}: damaged ({error}). Delete it and {self.folder / self.unit_name(unit)}, "
                "and give the command again; the pairs of that file are made again."
            ) from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that a run has written. Raises OSError, or ValueError without the file's name."""
    values = parse_json(read_text(path))
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    return values


def checked_problems(failed: object) -> dict[str, str]:
    """Pairs that failed, each with its problem. Raises ValueError for anything else."""
    if not isinstance(failed, dict) or not all(isinstance(text, str) for text in failed.values()):
        raise ValueError("the pairs that failed are no table of texts")
    return failed


def sample_key(name: str) -> str:
    """A pair's name as WebDataset's key, which ends at the first dot."""
    return name.replace("%", "%25").replace(".", "%2E")


def write_tar(path: Path, files: PairFiles, items: Iterable[Item]) -> None:
    """Pack pairs into an uncompressed tar; the same pairs give the same bytes."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for item in items:
            key = sample_key(item.name)
            _add(tar, f"{key}.image.png", files.image(item.name).read_bytes())
            _add(tar, f"{key}.mask.png", files.mask(item.name).read_bytes())
            _add(tar, f"{key}.txt", item.told_caption.encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
