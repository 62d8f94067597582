"""What becomes of captions before they are encoded, against sd-scripts and by hand."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from siamese_diffusion.training.data.captions import VARIANTS, CaptionStyle
from siamese_diffusion.training.data.pair_settings import settings_of
from siamese_diffusion.training.hosts.sd_scripts.library import Library
from support.small_datasets import load, prepared, two_folders, write_list

pytest_plugins = ["support.sd_scripts_fixtures"]
CAPTION = "polyp, round, small, sigmoid colon"


def test_tags_are_shuffled_behind_those_that_are_kept() -> None:
    variants = CaptionStyle(shuffle_caption=True, keep_tokens=2).variants(CAPTION, seed=1)
    assert len(variants) == VARIANTS
    assert {*variants} == {
        "polyp, round, small, sigmoid colon", "polyp, round, sigmoid colon, small",
    }  # fmt: skip
    assert variants == CaptionStyle(shuffle_caption=True, keep_tokens=2).variants(CAPTION, seed=1)
    assert variants != CaptionStyle(shuffle_caption=True, keep_tokens=2).variants(CAPTION, seed=2)


def test_tags_are_left_out_at_the_rate() -> None:
    style = CaptionStyle(caption_tag_dropout_rate=0.25, keep_tokens=1)
    variants = [variant for seed in range(100) for variant in style.variants(CAPTION, seed)]
    counts = Counter(tag for variant in variants for tag in variant.split(", "))
    for tag in ("round", "small", "sigmoid colon"):
        assert 0.72 < counts[tag] / (100 * VARIANTS) < 0.78
    assert counts["polyp"] == len(variants)


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle_caption": True},
        {"shuffle_caption": True, "keep_tokens": 2},
        {"caption_separator": ";", "shuffle_caption": True},
        {"caption_tag_dropout_rate": 0.5, "keep_tokens": 1},
        {"caption_prefix": "photo of", "caption_suffix": "end", "shuffle_caption": True},
        {"caption_prefix": "photo of"},
    ],
)
def test_the_same_captions_come_out_of_sd_scripts(
    options: dict[str, object], library: Library
) -> None:
    """As sets of many draws: each draws with a generator of its own."""
    text = "a; b, c; d"
    style = CaptionStyle(**options)  # type: ignore[arg-type]
    whole = style.caption(text)
    ours = {v for seed in range(60) for v in style.variants(whole, seed) or (whole,)}
    settings = {
        "caption_prefix": None, "caption_suffix": None, "caption_dropout_rate": 0.0,
        "caption_dropout_every_n_epochs": 0, "enable_wildcard": False, "shuffle_caption": False,
        "token_warmup_step": 0, "token_warmup_min": 1, "caption_tag_dropout_rate": 0.0,
        "caption_separator": ",", "keep_tokens": 0, "keep_tokens_separator": "",
        "secondary_separator": None,
    }  # fmt: skip
    subset = SimpleNamespace(**{**settings, **options})
    dataset = SimpleNamespace(current_epoch=0, current_step=0, max_train_steps=1, replacements={})
    random.seed(0)
    process = library.train_util.BaseDataset.process_caption
    assert ours == {process(dataset, subset, text) for _ in range(2000)}


def test_each_step_takes_one_of_the_variants(tmp_path: Path) -> None:
    folder = write_list(tmp_path, [(32, 32)], caption="a, b, c, d")
    dataset = load(folder, shuffle_caption=True, keep_tokens=1)
    [pair] = dataset.pairs
    data = prepared(dataset)
    texts = {data.batch([0], 3, step, 0.0).text.numpy().tobytes() for step in range(40)}
    assert len(texts) > 3
    variants = settings_of(pair).variants
    assert texts <= {data.texts.load([variant]).numpy().tobytes() for variant in variants}
    again = {data.batch([0], 3, step, 0.0).text.numpy().tobytes() for step in range(40)}
    assert texts == again


def test_prefix_extension_and_repeats_of_two_folders(tmp_path: Path) -> None:
    write_list(tmp_path, [(32, 32)])
    for suffix in (".txt", ".tags"):
        (tmp_path / f"images/0{suffix}").write_text(f"from {suffix}", encoding="utf-8")
    flags = {"caption_extension": ".tags", "caption_prefix": "a photo", "dataset_repeats": 3}
    dataset = load(tmp_path, **two_folders(tmp_path), **flags)
    assert [pair.caption for pair in dataset.pairs] == ["a photo from .tags"] * 3
    assert len(dataset.infos) == 1
