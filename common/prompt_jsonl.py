"""prompt.jsonl, the published list of pairs: its one reader and its one writer.

A line is a JSON object {"source": mask, "target": image, "prompt": caption}, with paths relative to
the file; "group" may name the patient, video or field of view that several pairs come from. In the
published data the file is called prompt.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from .files import replacing
from .pairs import Listing, Pair
from .text import printable, shortened, shown
from .text_files import LONGEST_LINE, check_regular, numbered_lines, parse_json

KEYS_SHOWN = 10
EXPECTED = '{"source": mask, "target": image, "prompt": caption}'


@dataclass(frozen=True)
class Entry:
    """One line: source (mask) and target (image) as written in the file, usually relative to it."""

    source: str
    target: str
    prompt: str
    group: str | None = None

    def to_line(self) -> str:
        values = {name: value for name, value in asdict(self).items() if value is not None}
        line = json.dumps(values, ensure_ascii=False)
        # Names of files that are not UTF-8 have no other form in a text.
        return (line if printable(line) == line else json.dumps(values)) + "\n"


def parse_line(line: str) -> Entry:
    """Read one line; other keys are ignored. Raises ValueError that says what is wrong with it."""
    try:
        values = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{error}; expected {EXPECTED}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{shown(values)} is no JSON object; expected {EXPECTED}")
    for name in ("source", "target", "prompt"):
        if not isinstance(values.get(name), str):
            found = shortened(", ".join(islice(values, KEYS_SHOWN))) or "nothing"
            raise ValueError(f'"{name}" must be a string; the line has {found}')
    group = values.get("group")
    if group is not None and not isinstance(group, (str, int)):
        raise ValueError(f'"group" must be a string or a whole number; it is {shown(group)}')
    group = None if group is None else str(group)
    for name, text in (("prompt", values["prompt"]), ("group", group or "")):
        if printable(text) != text:
            raise ValueError(
                f'"{name}" is {shown(text)}, no text: half a character (surrogate). Correct it'
            )
    return Entry(values["source"].strip(), values["target"].strip(), values["prompt"], group)


def read_prompt_jsonl(path: Path) -> Listing:
    """The pairs of a prompt.jsonl; invalid lines are among the listing's problems."""
    listing = Listing()
    try:
        for number, line in numbered_lines(path):
            try:
                listing.pairs.append(_pair(parse_line(line), path.parent, f"line {number}: "))
            except ValueError as error:
                listing.problems.append(f"line {number}: {error}")
    except OSError as error:
        listing.problems.append(f"cannot be read ({error.strerror}); expected a prompt.jsonl")
    except ValueError as error:
        listing.problems.append(str(error))
    if not listing.pairs and not listing.problems:
        listing.problems.append("the file is empty; expected one JSON object a line")
    return listing


def _pair(entry: Entry, folder: Path, where: str) -> Pair:
    return Pair(folder / entry.target, folder / entry.source, entry.prompt, where, entry.group)


def write_prompt_jsonl(path: Path, entries: Iterable[Entry]) -> None:
    """Write the whole file; if that fails, the old file is kept."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(entry.to_line() for entry in entries)


def append_entry(path: Path, entry: Entry) -> None:
    """Add a line at the end, on a line of its own; of one that does not fit, nothing is there."""
    with path.open("ab+", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        if before:
            file.seek(-1, os.SEEK_END)
        starts_line = file.read(1) in (b"\n", b"")
        data = (("" if starts_line else "\n") + entry.to_line()).encode()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            file.truncate(before)
            error.filename = str(path)  # which a write does not name
            raise


LINE_START = b'{"source": "'  # of every line that `Entry.to_line` writes


def drop_half_line(path: Path) -> None:
    """Remove what a killed process or a loss of power has left of a last line, where it has.

    A file without a whole line may be anything: what does not begin as ours stays, for its owner.
    """
    if not path.exists():
        return
    try:
        check_regular(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Move it away, or choose another folder.") from error
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        before = file.seek(max(0, size - LONGEST_LINE - 1))
        end = file.read()
        if before and b"\n" not in end:
            return  # a line that no reader takes is not ours
        start = before + end.rfind(b"\n") + 1
        last = end[start - before :]
        ours = start > 0 or last.startswith(LINE_START) or LINE_START.startswith(last)
        if last.strip() and ours and not _is_entry(last):
            file.truncate(start)


def _is_entry(line: bytes) -> bool:
    try:
        parse_line(line.decode("utf-8-sig"))
    except ValueError:
        return False
    return True
