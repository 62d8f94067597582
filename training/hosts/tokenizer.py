"""CLIP's tokenizer, from the merges in this repository or from a folder; nothing is downloaded."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ...common.text import shortened
from ...common.text_files import parse_json, read_text
from ...models.metadata import SD2_CONTEXT
from ..errors import ConfigError

MERGES = Path(__file__).parent / "clip" / "merges.txt.gz"  # of OpenAI's CLIP, most frequent first
VOCABULARY_FILE, MERGES_FILE = "vocab.json", "merges.txt"
OTHER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
MARKS = {"<|startoftext|>", "<|endoftext|>"}
MAX_TOKENS = 77
# Names of folders that sd-scripts saves tokenizers to, by the width of the text encoder.
SAVED_AS = {768: "openai_clip-vit-large-patch14", SD2_CONTEXT: "stabilityai_stable-diffusion-2"}


def load_tokenizer(context_dim: int, folder: Path | None) -> CLIPTokenizer:
    """The tokenizer of Stable Diffusion 1.x (`context_dim` 768) or 2.x (1024).

    folder: --tokenizer_cache_dir; None: CLIP's own. Raises ConfigError for a folder without one.
    """
    if folder is not None:
        place = tokenizer_folder(folder, [SAVED_AS[context_dim]])
        try:
            _check_files(place)
            tokenizer = _from_folder(place, context_dim)
            tokenizer("a photo", padding="max_length", truncation=True)
        except Exception as error:  # files made up to fail raise nearly anything
            raise ConfigError(
                f"--tokenizer_cache_dir {place}: no tokenizer of CLIP ({shortened(str(error))}). "
                "Copy it again, or leave the flag out: CLIP's own is included."
            ) from error
        return tokenizer
    merges = gzip.decompress(MERGES.read_bytes()).decode()
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        vocabulary = json.dumps(clip_vocabulary(merges.splitlines()))
        (place / VOCABULARY_FILE).write_text(vocabulary, encoding="utf-8")
        (place / MERGES_FILE).write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
        return _from_folder(place, context_dim)


def tokenizer_folder(folder: Path, names: Iterable[str] = SAVED_AS.values()) -> Path:
    """Where in a --tokenizer_cache_dir a tokenizer is: under one of the names, or in itself.

    Raises ConfigError if there is none.
    """
    for place in (*(folder / name for name in names), folder):
        if (place / VOCABULARY_FILE).is_file() and (place / MERGES_FILE).is_file():
            return place
    raise ConfigError(
        f"--tokenizer_cache_dir {folder}: {VOCABULARY_FILE} and {MERGES_FILE} are neither there "
        f"nor in {' or '.join(names)}. Give the folder that holds them, or leave the flag out: "
        "CLIP's own tokenizer is included."
    )


def clip_vocabulary(merges: Sequence[str]) -> dict[str, int]:
    """CLIP's vocabulary: each byte inside a word and at its end, the merges, and two marks.

    merges: lines of two parts with a blank between them.
    """
    letters = [*bytes_to_unicode().values()]
    words = [merge.replace(" ", "") for merge in merges]
    ends = [f"{letter}</w>" for letter in letters]
    tokens = [*letters, *ends, *words, "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def _check_files(place: Path) -> None:
    """Raise OSError or ValueError unless a tokenizer's files are what they should be.

    What reads them fails on others in ways of its own, or goes round and round.
    """
    vocabulary = parse_json(read_text(place / VOCABULARY_FILE))
    numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    whole = all(type(number) is int for number in numbers)
    if not whole or sorted(numbers) != [*range(len(numbers))] or not {*vocabulary} >= MARKS:
        raise ValueError(f"{VOCABULARY_FILE}: expected texts, each with a number from 0 on")
    merges = read_text(place / MERGES_FILE).splitlines()[1:]
    if any(line and len(line.split()) != 2 for line in merges):
        raise ValueError(f"{MERGES_FILE}: expected a line of two parts for each merge")
    for name in OTHER_FILES:  # that a tokenizer may have beside these
        path = place / name
        if path.exists() and not isinstance(parse_json(read_text(path)), dict):
            raise ValueError(f"{name}: expected a table")


def _from_folder(folder: Path, context_dim: int) -> CLIPTokenizer:
    # Files of others may say another maximum length; Stable Diffusion's text encoders take 77.
    # Version 2.x pads with "!", as OpenCLIP does, version 1.x with the end mark.
    pad = "!" if context_dim == SD2_CONTEXT else "<|endoftext|>"
    # Version 5 of transformers takes other arguments for the files; a folder it reads alike.
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(
        str(folder), pad_token=pad, model_max_length=MAX_TOKENS, local_files_only=True
    )
    return tokenizer
