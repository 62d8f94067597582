"""CLIP's tokenizer as it is included here, against its own files and known numbers."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import pytest
from siamese_diffusion.tools.comfy_host import COMFYUI
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.tokenizer import load_tokenizer
from support.needs import Need
from transformers import CLIPTokenizer

CAPTIONS = [
    "",
    "a photo of a cat",
    "Endoscopic image of a sessile POLYP, 5 mm; it's large!",
    "Fäll 1 — naïve cafe\u0301, 内視鏡画像 🔬 \u00a0\u200b<|endoftext|> a_b-c",
    "word " * 120,
    "123 4567 x2.5%",
]


@pytest.fixture(scope="module")
def original() -> Path:
    """The folder of ComfyUI's copy of CLIP's vocab.json and merges.txt."""
    folder = COMFYUI / "comfy/sd1_tokenizer"
    if not folder.is_dir():
        Need.COMFYUI.skip()
    return folder


def test_known_numbers() -> None:
    """As OpenAI's CLIP prints them."""
    first = load_tokenizer(768, None)
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    padded = first("a cat", max_length=77, padding="max_length").input_ids
    assert padded == [49406, 320, 2368, *[49407] * 74]
    second = load_tokenizer(1024, None)("a cat", max_length=77, padding="max_length").input_ids
    assert second == [49406, 320, 2368, 49407, *[0] * 73]
    assert first.model_max_length == 77


def test_the_vocabulary_is_clips(original: Path) -> None:
    expected = json.loads((original / "vocab.json").read_text(encoding="utf-8"))
    found = load_tokenizer(768, None)
    assert found.get_vocab() == expected


@pytest.mark.parametrize(("context_dim", "pad"), [(768, "<|endoftext|>"), (1024, "!")])
def test_captions_have_the_same_tokens(original: Path, context_dim: int, pad: str) -> None:
    expected = CLIPTokenizer.from_pretrained(str(original), pad_token=pad, model_max_length=77)
    found = load_tokenizer(context_dim, None)
    values = random.Random(0)
    words = [token.removesuffix("</w>") for token in expected.get_vocab()]
    made = [" ".join(values.choices(words, k=values.randint(1, 90))) for _ in range(200)]
    options = {"max_length": 77, "padding": "max_length", "truncation": True}
    for caption in [*CAPTIONS, *made]:
        assert found(caption, **options).input_ids == expected(caption, **options).input_ids


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for context_dim in (768, 1024):
        assert len(load_tokenizer(context_dim, None)) == 49408


@pytest.mark.parametrize("below", ["", "openai_clip-vit-large-patch14"])
def test_a_folder_of_ones_own_comes_first(below: str, tmp_path: Path) -> None:
    """Plain, or as sd-scripts saves it."""
    place = tmp_path / below
    place.mkdir(exist_ok=True)
    tokens = ["a</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (place / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (place / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    assert load_tokenizer(768, tmp_path)("a").input_ids == [1, 0, 2]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--tokenizer_cache_dir {tmp_path}: vocab.json and"):
        load_tokenizer(1024, tmp_path)
