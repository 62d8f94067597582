"""The one reader and the one writer of prompt.jsonl, against each other and against json."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from siamese_diffusion.common.prompt_jsonl import (
    Entry,
    append_entry,
    drop_half_line,
    parse_line,
    read_prompt_jsonl,
    write_prompt_jsonl,
)
from support.full_disk import at_most

# With the characters beyond \n that end a line for str.splitlines().
CAPTION = 'a "polyp",\u2028größer\u2029than\x85a\x0bcentimetre\\'
ENTRIES = [
    Entry("masks/a b.png", "images/a b.png", CAPTION, "patient 7"),
    Entry("masks/1.png", "images/1.png", ""),
]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "prompt.jsonl"


def test_what_is_written_is_read_again(index: Path) -> None:
    write_prompt_jsonl(index, ENTRIES[:1])
    append_entry(index, ENTRIES[1])
    listing = read_prompt_jsonl(index)
    assert listing.problems == []
    found = [(pair.mask, pair.image, pair.caption, pair.group) for pair in listing.pairs]
    assert found == [
        (index.parent / entry.source, index.parent / entry.target, entry.prompt, entry.group)
        for entry in ENTRIES
    ]
    assert [pair.where for pair in listing.pairs] == ["line 1: ", "line 2: "]


def test_lines_are_the_published_objects(index: Path) -> None:
    write_prompt_jsonl(index, ENTRIES)
    content = index.read_bytes()
    first, second = (json.loads(line) for line in content.removesuffix(b"\n").split(b"\n"))
    assert first == {
        **{"source": "masks/a b.png", "target": "images/a b.png"},
        **{"prompt": CAPTION, "group": "patient 7"},
    }
    assert second == {"source": "masks/1.png", "target": "images/1.png", "prompt": ""}
    assert "größer".encode() in content  # readable, not escaped


@pytest.mark.parametrize(
    ("group", "read"), [("", None), (', "group": null', None), (', "group": 7', "7")]
)
def test_a_group_may_be_missing_or_a_number(group: str, read: str | None) -> None:
    line = f'{{"source": " m.png", "target": "i.png", "prompt": " p", "else": 1{group}}}'
    assert parse_line(line) == Entry("m.png", "i.png", " p", read)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"source": "m.png", "target": "i.png"}', '"prompt" must be a string'),
        ('{"source": "m.png", "target": 3, "prompt": ""}', '"target" must be a string'),
        ('{"source": "m", "target": "i", "prompt": "", "group": [1]}', r'"group".*\[1\]'),
        ('["m.png", "i.png", ""]', "expected {"),
        ('{"source": ', "not JSON .* column 12"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_wrong_line_is_named_and_the_others_are_read(
    index: Path, line: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_line(line)
    write_prompt_jsonl(index, ENTRIES[:1])
    with index.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    append_entry(index, ENTRIES[1])
    listing = read_prompt_jsonl(index)
    assert len(listing.pairs) == 2
    (found,) = listing.problems
    assert found.startswith("line 2: ")


@pytest.mark.parametrize("half", [b'{"source": "m', "ü".encode()[:1], bytes(20), b"{}"])
def test_half_a_line_at_the_end_is_removed(index: Path, half: bytes) -> None:
    """Of a killed process, or of a loss of power."""
    write_prompt_jsonl(index, ENTRIES[:1])
    whole = index.read_bytes()
    index.write_bytes(whole + half)
    drop_half_line(index)
    assert index.read_bytes() == whole


def test_a_whole_line_without_its_end_is_kept(index: Path) -> None:
    write_prompt_jsonl(index, ENTRIES[:1])
    whole = index.read_bytes()
    index.write_bytes(whole.rstrip())
    drop_half_line(index)
    append_entry(index, ENTRIES[1])
    assert index.read_bytes() == whole + ENTRIES[1].to_line().encode()


def test_a_line_that_does_not_fit_on_the_disk_is_not_there_at_all(index: Path) -> None:
    write_prompt_jsonl(index, ENTRIES[:1])
    whole = index.read_bytes()
    with at_most(len(whole) + 10), pytest.raises(OSError, match=r"too large: .*prompt"):
        append_entry(index, ENTRIES[1])
    assert index.read_bytes() == whole
    append_entry(index, ENTRIES[1])
    assert len(read_prompt_jsonl(index).pairs) == 2


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_neither_waited_for_nor_changed(kind: str, index: Path) -> None:
    os.mkfifo(index) if kind == "pipe" else index.mkdir()
    with pytest.raises((ValueError, IsADirectoryError), match=r"prompt\.jsonl"):
        drop_half_line(index)


@pytest.mark.parametrize("start", [b"", ENTRIES[0].to_line().encode()])
def test_a_huge_list_is_not_read_to_find_half_a_line(start: bytes, index: Path) -> None:
    with index.open("wb") as file:
        file.write(start)
        file.truncate(3 << 30)  # a file of zeros that takes no room on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    drop_half_line(index)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert index.stat().st_size == 3 << 30


def test_half_a_line_behind_many_is_removed(index: Path) -> None:
    whole = ENTRIES[0].to_line().encode() * 20_000
    index.write_bytes(whole + ENTRIES[1].to_line().encode()[:-5])
    drop_half_line(index)
    assert index.read_bytes() == whole


def test_an_interrupted_write_leaves_the_old_list_and_nothing_else(index: Path) -> None:
    write_prompt_jsonl(index, ENTRIES)
    before = index.read_bytes()

    def interrupted() -> Iterator[Entry]:
        yield ENTRIES[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_prompt_jsonl(index, interrupted())
    assert index.read_bytes() == before
    assert [*index.parent.iterdir()] == [index]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "the file is empty"), (b"\n \n", "the file is empty"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_list_without_lines_is_a_problem(index: Path, content: bytes, problem: str) -> None:
    index.write_bytes(content)
    (found,) = read_prompt_jsonl(index).problems
    assert problem in found


def test_a_byte_order_mark_and_windows_line_ends_are_read(index: Path) -> None:
    lines = "\r\n".join(entry.to_line().strip() for entry in ENTRIES)
    index.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    listing = read_prompt_jsonl(index)
    assert (len(listing.pairs), listing.problems) == (2, [])
