"""What a run leaves beside its pairs: its settings, a record for each shard, and the whole list.

settings.json is there from the beginning, and keeps other settings out of the folder. Each shard
writes its own prompt.jsonl and manifest; when all have, they are merged.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..common.files import replacing, sync, sync_upwards, writer_of
from ..common.pair_files import IMAGES, MASKS
from ..common.processes import is_running
from ..common.prompt_jsonl import Entry, write_prompt_jsonl
from ..common.tar_members import file_of
from ..common.text import printable, shortened, shown
from .errors import StoppedError, SynthesisError
from .jobs import STAGING, UNTOLD, Job, checked_problems, read_object
from .settings import Shard
from .shard import Outcome

FORMAT_VERSION = 1
DIFFERENCES_SHOWN = 20
SETTINGS, MANIFEST, INDEX, SHARDS = "settings.json", "manifest.json", "prompt.jsonl", "shards"

Values = Mapping[str, Any]


def claim(folder: Path, values: Values) -> None:
    """Write settings.json, or compare with the one that is there, whoever came first.

    Raises SynthesisError naming every setting that differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    text = json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2, ensure_ascii=False)
    if not path.exists():
        _create(path, text + "\n")
    there = claimed(folder)
    here = json.loads(text)
    differing = [
        f"{shortened(name)} {shown(there.get(name))}, now {shown(here.get(name))}"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if differing:
        more = "; ..." if len(differing) > DIFFERENCES_SHOWN else ""
        raise SynthesisError(
            f"--output_dir {folder}: holds pairs made with other settings: "
            f"{'; '.join(differing[:DIFFERENCES_SHOWN])}{more}. Give the same ones, or another "
            "folder."
        )


def check_shared(folder: Path) -> None:
    """Raise SynthesisError where the folder that was claimed on another machine is not seen."""
    if not (folder / SETTINGS).exists():
        raise SynthesisError(
            f"--output_dir {folder}: {socket.gethostname()} does not see what is in it on the "
            "machine that began the run; all need one file system, under the same path."
        )


def claimed(folder: Path) -> dict[str, Any]:
    """The settings that the folder's pairs are made with; none where there are no pairs yet.

    Raises SynthesisError.
    """
    path = folder / SETTINGS
    if not path.exists():
        return {}
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise SynthesisError(
            f"{path}: cannot be read ({error}). Delete it, and give the command again; the pairs "
            "stay."
        ) from error


def _create(path: Path, text: str) -> None:
    """Write a file unless another process is first; nobody sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links here
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_upwards([path.parent], path.parent.parent)


@dataclass
class Record:
    """What became of a shard's pairs. plan: fingerprint of the whole run's list of pairs."""

    plan: str
    made: int = 0
    there: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        if outcome.state == "failed":
            self.failed[outcome.name] = outcome.problem
        elif outcome.state == "made":
            self.made += 1
        else:
            self.there += 1

    @property
    def pairs(self) -> int:
        return self.made + self.there

    def to_values(self) -> dict[str, Any]:
        return {"pairs": self.pairs, **asdict(self)}


def finish(
    folder: Path, values: Values, job: Job, shard: Shard, units: Iterable[int], record: Record
) -> Record | None:
    """Write the shard's list and manifest. The record of all shards, if this was the last of them.

    Then the lists are merged, and what killed processes have left is removed. What a list names is
    on the disk before it: both outlive a loss of power.
    """
    (folder / SHARDS).mkdir(exist_ok=True)
    # Of this shard's own pairs: to look through all would take each of many shards long.
    places = {
        file_of(folder / path).parent
        for entry in _entries(job, units, record.failed)
        for path in (entry.source, entry.target)
    }
    sync_upwards({folder, *places}, folder.parent)
    write_prompt_jsonl(_file(folder, shard, "jsonl"), _entries(job, units, record.failed))
    if job.plan.anonymous:
        record = replace(record, failed=dict.fromkeys(record.failed, UNTOLD))
    own = {**values, "shard": shard.name, **record.to_values()}
    _write_json(_file(folder, shard, "manifest.json"), own)
    whole = _all_records(folder, shard, record.plan)
    if whole is None:
        return None
    first = not (folder / MANIFEST).exists()
    write_prompt_jsonl(folder / INDEX, _entries(job, range(len(job)), whole.failed))
    _write_json(folder / MANIFEST, {**values, "shards": shard.count, **whole.to_values()})
    if first or shard.count == 1:  # else other shards may be at work once more
        _sweep(folder)
    return whole


def _entries(job: Job, units: Iterable[int], failed: Mapping[str, str]) -> Iterator[Entry]:
    """In the plan's order, whatever the order in which the pairs were made."""
    for unit in units:
        for item in job.items(unit):
            if item.name not in failed:
                yield job.entry(unit, item)


def _file(folder: Path, shard: Shard, kind: str) -> Path:
    return folder / SHARDS / f"{shard.name}.{kind}"


def _write_json(path: Path, values: Values) -> None:
    with replacing(path) as temporary:
        text = json.dumps(values, indent=2, ensure_ascii=False)
        temporary.write_text(printable(text) + "\n", encoding="utf-8")


def _all_records(folder: Path, shard: Shard, plan: str) -> Record | None:
    """The sum of all shards' records; None while one is missing, or is of other pairs."""
    whole = Record(plan)
    for number in range(shard.count):
        path = _file(folder, Shard(number, shard.count), "manifest.json")
        found = _read_record(path) if path.exists() else None
        if found is None or found.plan != plan:
            return None
        whole.made += found.made
        whole.there += found.there
        whole.failed |= found.failed
    return whole


def _read_record(path: Path) -> Record:
    """Raises StoppedError."""
    try:
        values = read_object(path)
        plan, made, there = (values.get(name) for name in ("plan", "made", "there"))
        if not isinstance(plan, str):
            raise ValueError("names no plan")
        if not (isinstance(made, int) and isinstance(there, int) and min(made, there) >= 0):
            raise ValueError("does not say how many pairs were made and how many were there")
        return Record(plan, made, there, checked_problems(values.get("failed")))
    except (OSError, ValueError) as error:
        raise StoppedError(
            f"{path}: damaged ({error}). Delete it, and run that shard again; its pairs stay."
        ) from error


def _sweep(folder: Path) -> None:
    """Remove the temporary files of processes that were killed.

    None is at work any more, unless the same command was given twice.
    """
    for kind in (IMAGES, MASKS, SHARDS, STAGING):
        for place, _, names in os.walk(folder / kind):
            for name in names:
                path = Path(place, name)
                process = writer_of(path)
                if process is not None and not is_running(process):
                    path.unlink(missing_ok=True)
