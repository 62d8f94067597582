"""Dataset TOMLs of sd-scripts: the same flags, pairs and refusals on both training hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from siamese_diffusion.training.data.batches import TrainingData
from siamese_diffusion.training.data.framing import Framing
from support.small_datasets import Base, problems, resolve, write_list

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
            "enable_wildcard = true",
            "enable_wildcard: unknown, or without an effect",
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
        ("  [[datasets.subsets]]", "  [[subsets]]", "subsets"),
    ],
)
def test_mistakes(
    old: str, new: str, expected: str, on_host: dict[str, object], toml: Write, tmp_path: Path
) -> None:
    report = problems(tmp_path, dataset_config=toml(TOML.replace(old, new)), **on_host)
    assert expected in report
    assert "nothing was started" in report


SECOND = """
[[datasets]]
resolution = 32
batch_size = 3

  [[datasets.subsets]]
  image_dir = 'B/images'
  conditioning_data_dir = 'B/masks'
  flip_aug = false
  caption_dropout_rate = 1.0
  caption_extension = ".txt"
"""


def test_subsets_and_datasets_differ_each_in_its_own_way(
    on_host: dict[str, object], toml: Write, tmp_path: Path
) -> None:
    first = TOML.partition("  [[datasets.subsets]]\n  image_dir = 'B")[0]
    path = toml(first.replace("num_repeats = 3", "caption_dropout_rate = 0.0") + SECOND)
    config, dataset = resolve(tmp_path, dataset_config=path, **on_host)
    data = Base().prepare(TrainingData(dataset, Framing.of(config)))
    folders = [pair.image.parts[0] for pair in dataset.pairs]
    assert folders == ["A", "A", "B", "B"]
    assert data.sizes == [(32, 32), (48, 32), (32, 32), (32, 32)]
    rate = config.caption_dropout_rate
    whole = [data.batch([index], 0, step, rate) for index in (0, 2) for step in range(12)]
    captioned = [bool((batch.text != data.texts.load([""])).any()) for batch in whole]
    assert captioned == [True] * 12 + [False] * 12
    shown = [{batch.image.numpy().tobytes() for batch in whole[i : i + 12]} for i in (0, 12)]
    assert [len(images) for images in shown] == [2, 1]  # flipped or not, and never flipped
    held_out = Base().prepare(TrainingData(dataset, Framing.of(config), augmented=False))
    plain = [held_out.batch([0], 0, step, 0.0).image.numpy().tobytes() for step in range(12)]
    assert len({*plain}) == 1


def test_a_change_of_one_subset_changes_the_fingerprint(toml: Write, tmp_path: Path) -> None:
    prints = []
    for rate in ("0.5", "0.25", "0.25"):
        text = TOML.replace("num_repeats = 3", f"caption_dropout_rate = {rate}")
        # The first subset's is the run's, so that the second one's is its own.
        text += f"  caption_dropout_rate = 1{rate[1:]}\n".replace("1.", "0.1")
        prints.append(resolve(tmp_path, dataset_config=toml(text))[1].fingerprint())
    assert prints[0] != prints[1] == prints[2]


def test_one_batch_size_a_run(on_host: dict[str, object], toml: Write, tmp_path: Path) -> None:
    second = SECOND.replace("batch_size = 3", "batch_size = 4")
    report = problems(tmp_path, dataset_config=toml(TOML + second), **on_host)
    assert "batch_size differs ([[datasets]] 1, subset 1: 3;" in report
    assert "one run has one batch_size" in report


def test_all_mistakes_are_in_one_report(toml: Write, tmp_path: Path) -> None:
    text = TOML.replace("shuffle_caption = false", "color_aug = true\nrandom_crops = false")
    text = text.replace("num_repeats = 3", 'num_repeats = "3"\nresolution = 5')
    text = text.replace("image_dir = 'B/images '\n", "") + "\n[extra]\nkey = 1"
    report = problems(tmp_path, host="standalone", dataset_config=toml(text))
    assert "5 problems" in report
    for line in (
        "extra: unknown",
        "[general]: color_aug, random_crops: unknown, or without an effect",
        "[[datasets]] 1, subset 1: resolution: unknown, or without an effect",
        "[[datasets]] 1, subset 1: num_repeats is '3'; expected a number above 0",
        "[[datasets]] 1, subset 2: image_dir is missing",
    ):
        assert line in report
