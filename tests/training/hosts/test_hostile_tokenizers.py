"""Folders given as --tokenizer_cache_dir that hold no tokenizer of CLIP: one line each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.tokenizer import MERGES, clip_vocabulary, load_tokenizer

TEXT = gzip.decompress(MERGES.read_bytes()).decode()
WORDS = clip_vocabulary(TEXT.splitlines())
GOOD = {"vocab.json": json.dumps(WORDS), "merges.txt": f"#version: 0.2\n{TEXT}"}
HOSTILE: dict[str, dict[str, Any]] = {
    "nothing": {"vocab.json": "{}"},
    "a list": {"vocab.json": "[1]"},
    "deep": {"vocab.json": "[" * 100_000},
    "no JSON": {"vocab.json": "x"},
    "not UTF-8": {"vocab.json": b"\xff\xfe"},
    "numbers too large": {"vocab.json": json.dumps({k: v + 10**6 for k, v in WORDS.items()})},
    "one number": {"vocab.json": json.dumps(dict.fromkeys(WORDS, -1))},
    "texts": {"vocab.json": json.dumps(dict.fromkeys(WORDS, "a"))},
    "no marks": {"vocab.json": json.dumps({k: v for k, v in WORDS.items() if "|" not in k})},
    "merges of bytes": {"merges.txt": b"\xff\xfe"},
    "merges of three": {"merges.txt": "#version: 0.2\na b c\n"},
    "a list as settings": {"tokenizer_config.json": "[1]"},
    "a list as marks": {"special_tokens_map.json": "[1]"},
}


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in {**GOOD, **files}.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    return folder


def test_the_same_files_are_read_where_they_are_good(tmp_path: Path) -> None:
    [first, *_, last] = load_tokenizer(768, write(tmp_path, {}))("a polyp")["input_ids"]
    assert (first, last) == (49406, 49407)


@pytest.mark.parametrize("files", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_tokenizer_is_refused(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--tokenizer_cache_dir .*: no tokenizer .* Copy it"
    ) as e:
        load_tokenizer(768, write(tmp_path, files))
    assert str(e.value).isprintable() and len(str(e.value)) < 600
