"""Dataset TOMLs of sd-scripts: the same flags, pairs and refusals on both training hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.small_datasets import problems, resolve, write_list

TOML = """
[general]
caption_extension = ".caption"
shuffle_caption = false
keep_tokens = 1
flip_aug = true

[[datasets]]
resolution = [64, 32]
batch_size = 3
enable_bucket = true
min_bucket_reso = 32
bucket_reso_steps = 16

  [[datasets.subsets]]
  image_dir = 'A/images'
  conditioning_data_dir = 'A/masks'
  num_repeats = 3

  [[datasets.subsets]]
  image_dir = 'B/images '
  conditioning_data_dir = 'B/masks'
  caption_extension = ".txt"
  caption_prefix = "photo of"
"""

Write = Callable[[str], Path]


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a dataset TOML over two folders of pairs; its folders are relative to the cwd."""
    for name in "AB":
        write_list(tmp_path / name, [(32, 32), (48, 32)])
        for suffix in (".txt", ".caption"):
            caption = tmp_path / name / "images/0"
            caption.with_suffix(suffix).write_text(f"{name}{suffix}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "dataset.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(params=["standalone", "sd-scripts"])
def on_host(request: pytest.FixtureRequest) -> dict[str, object]:
    if request.param == "standalone":
        return {"host": "standalone"}
    return {"sd_scripts": request.getfixturevalue("sd_scripts")}


def test_it_sets_flags_and_folders(on_host: dict[str, object], toml: Write, tmp_path: Path) -> None:
    flags = {"validation_split": 0.25, **on_host}
    resolved, dataset = resolve(tmp_path, dataset_config=toml(TOML), **flags)
    assert (resolved.size, resolved.train_batch_size, resolved.flip_aug) == ((64, 32), 3, True)
    assert resolved.enable_bucket and resolved.bucket_reso_steps == 16
    # What the file does not set is the command line's, or our default.
    assert (resolved.validation_split, resolved.caption_dropout_rate) == (0.25, 0.05)
    assert resolved.max_bucket_reso == 1024
    counts = Counter((str(p.image), p.caption) for p in dataset.pairs)
    assert counts == {
        ("A/images/0.png", "A.caption"): 3,
        ("A/images/1.png", ""): 3,
        ("B/images/0.png", "photo of B.txt"): 1,
        ("B/images/1.png", "photo of"): 1,
    }


def test_without_an_extension_captions_are_txt_or_caption(
    on_host: dict[str, object], toml: Write, tmp_path: Path
) -> None:
    path = toml(TOML.replace('caption_extension = ".caption"', ""))
    (tmp_path / "A/images/0.txt").unlink()
    (tmp_path / "A/images/1.txt").write_text("also", encoding="utf-8")
    _, dataset = resolve(tmp_path, dataset_config=path, **on_host)
    assert {p.caption for p in dataset.pairs if "A" in p.image.parts} == {"A.caption", "also"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "shuffle_caption = false",
            "shuffle_caption = true",
            "shuffle_caption: unknown, or without an effect",
        ),
        ("shuffle_caption = false", "color_aug = true", "color_aug: unknown, or without an effect"),
        ("shuffle_caption = false", "random_crops = false", "random_crops"),
        ("num_repeats = 3", 'num_repeats = "3"', "num_repeats"),
        ("num_repeats = 3", "resolution = 5", "resolution"),
        ("image_dir = 'B/images '\n", "", "image_dir"),
        ("[general]", "[extra]\nkey = 1\n[general]", "extra"),
        ("'A/images'", '"A\\images"', "single quotes"),
        ("'A/images'", "'C/images'", "C/images: no such folder"),
        ("batch_size = 3", 'batch_size = "3"', "batch_size"),
        ("resolution = [64, 32]", "resolution = 30", "--resolution is '30'"),
        (
            "num_repeats = 3",
            "flip_aug = false",
            "flip_aug differs ([[datasets]] 1, subset 1: False",
        ),
        ("  [[datasets.subsets]]", "  [[subsets]]", "subsets"),
    ],
)
def test_mistakes(
    old: str, new: str, expected: str, on_host: dict[str, object], toml: Write, tmp_path: Path
) -> None:
    report = problems(tmp_path, dataset_config=toml(TOML.replace(old, new)), **on_host)
    assert expected in report
    assert "nothing was started" in report


def test_all_mistakes_are_in_one_report(toml: Write, tmp_path: Path) -> None:
    text = TOML.replace("shuffle_caption = false", "shuffle_caption = true\nrandom_crops = false")
    text = text.replace("num_repeats = 3", 'num_repeats = "3"\nresolution = 5')
    text = text.replace("image_dir = 'B/images '\n", "") + "\n[extra]\nkey = 1"
    report = problems(tmp_path, host="standalone", dataset_config=toml(text))
    assert "5 problems" in report
    for line in (
        "extra: unknown",
        "[general]: shuffle_caption, random_crops: unknown, or without an effect",
        "[[datasets]] 1, subset 1: resolution: unknown, or without an effect",
        "[[datasets]] 1, subset 1: num_repeats is '3'; expected a number above 0",
        "[[datasets]] 1, subset 2: image_dir is missing",
    ):
        assert line in report
