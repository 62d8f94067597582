"""Damaged files, odd names and wrong flags of an evaluation: one line with finding and remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.evaluation import inputs
from siamese_diffusion.evaluation.errors import OutputError
from siamese_diffusion.evaluation.evaluate import main
from siamese_diffusion.evaluation.pair_sets import PairSet, load_pairs
from siamese_diffusion.evaluation.radiomics import comparable
from siamese_diffusion.evaluation.segmenters import Segmenter, colour_statistics
from siamese_diffusion.evaluation.store import Store
from siamese_diffusion.tools.pairs import write_pairs
from support.evaluated_pairs import made_up

BUDGET = ("--quick", "--steps=1", "--seeds=1", "--segmenters=fpn_small", "--ratios=1")


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return made_up(tmp_path_factory.mktemp("hostile"), "real_test", 6, 1)


# What each makes of the figures (6, 3) of a finished training.
DAMAGED: dict[str, Callable[[Any], Any]] = {
    "none": lambda _: [],
    "flat": lambda rows: rows[0],
    "of fewer images": lambda rows: rows[1:],
    "of one more": lambda rows: [[*row, 1] for row in rows],
    "not finite": lambda rows: [[float("nan")] * 3, *rows[1:]],
    "infinite": lambda rows: [*rows[1:], [0, 0, float("inf")]],
    "above 1": lambda rows: [[7, 1, 0], *rows[1:]],
    "negative": lambda rows: [[1, 1, -1], *rows[1:]],
    "texts": lambda rows: [["x", 1, 0], *rows[1:]],
    "a number": lambda _: 1,
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_figures_that_no_training_left_are_refused(
    change: Callable[[Any], Any], test_set: PairSet, tmp_path: Path
) -> None:
    store, good = Store(tmp_path), np.full((len(test_set), 3), 0.5)
    store.write_figures("a", test_set, {"values": good})
    found = store.figures("a", test_set)
    assert found and (found["values"] == good).all()
    path = tmp_path / "a.json"
    entry = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**entry, "values": change(entry["values"])}), "utf-8")
    with pytest.raises(OutputError, match=r"a\.json: damaged .*Delete it"):
        store.figures("a", test_set)


def test_a_judge_that_is_not_finite_is_refused(test_set: PairSet, tmp_path: Path) -> None:
    store = Store(tmp_path)
    judge = Segmenter("fpn_small", *colour_statistics(test_set.images))
    store.write_weights("a", judge)
    assert store.load_weights("a", judge)
    judge.mean.fill_(float("nan"))
    store.write_weights("a", judge)
    with pytest.raises(OutputError, match=r"a\.safetensors: damaged .*Delete it"):
        store.load_weights("a", judge)


@pytest.mark.parametrize("lacking", [(0,), (1,), (0, 1)])
def test_a_set_without_any_region_for_radiomics_is_left_out(lacking: tuple[int, ...]) -> None:
    """Its lesions all have under 16 pixels."""
    sets = [np.random.default_rng(n).normal(size=(20, 4)) for n in range(2)]
    for number in lacking:
        sets[number] = np.empty((20, 0))
    first, second = comparable(sets[0], sets[1:])
    assert np.isnan(first).all() or lacking == (1,)
    assert np.isnan(second).all()


def data(folder: Path) -> dict[str, Path]:
    counts = {"real_train": 8, "real_test": 4, "synthetic": 4}
    return {
        name: write_pairs(folder / name, count, 32, seed)
        for seed, (name, count) in enumerate(counts.items())
    }


def run(lists: dict[str, Path], out: Path, *flags: str) -> int:
    given = [f"--{name}={'new=' * (name == 'synthetic')}{path}" for name, path in lists.items()]
    try:
        return main([*given, f"--out={out}", *BUDGET, *flags])
    except SystemExit as stop:
        return int(str(stop.code))


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--scores={folder}", "is a folder; expected a file"),
        ("--out={folder}/caf\udce9", "is not UTF-8 text. Give another"),
        (f"--synthetic={'n' * 300}={{folder}}/real_test/prompt.jsonl", "at most 100 letters"),
        (f"--resolution={'9' * 5000}", "expected a multiple of 32"),
        (f"--segmenters={'n' * 5000}", "expected some of unet"),
        (f"--keep=0,{'9' * 5000}", "expected LOW,HIGH"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_once(
    flag: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = data(tmp_path)
    assert run(lists, tmp_path / "out", flag.format(folder=tmp_path)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line and line.isprintable() and len(line) < 600
    assert not (tmp_path / "out").exists()


def test_a_file_deleted_between_check_and_reading_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = data(tmp_path)
    gone = tmp_path / "synthetic/images/00001.png"

    def delayed(name: str, *others: Any) -> PairSet:
        gone.unlink(missing_ok=True)
        return load_pairs(name, *others)

    monkeypatch.setattr(inputs, "load_pairs", delayed)
    assert run(lists, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert f"{gone}: no such file; check the path" in told and "a bug" not in told


@pytest.mark.slow  # two trainings
def test_an_image_whose_name_is_no_text_is_in_the_report(tmp_path: Path) -> None:
    lists = data(tmp_path)
    [first, *others] = read_prompt_jsonl(lists["synthetic"]).pairs
    named = replace(first, image=first.image.with_name("caf\udce9.png"))
    shutil.copy(first.image, named.image)
    entries = [
        {"source": str(pair.mask), "target": str(pair.image), "prompt": ""}
        for pair in (named, *others)
    ]
    lists["synthetic"].write_text("".join(json.dumps(e) + "\n" for e in entries), "utf-8")
    assert run(lists, tmp_path / "out", f"--scores={tmp_path / 's.jsonl'}", "--keep=0,1") == 0
    told = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    closest = told["memorisation"][0]["closest"]
    assert str(named.image) in [pair["synthetic"] for pair in closest]
    assert "caf" in (tmp_path / "out/report.html").read_text("utf-8")
