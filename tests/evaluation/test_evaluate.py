"""The command from end to end on made-up pairs, its page, and what it reveals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from siamese_diffusion.common.pairs import DatasetError
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.evaluation import inputs
from siamese_diffusion.evaluation.command_line import LOCK, parse_args
from siamese_diffusion.evaluation.inputs import read_inputs
from siamese_diffusion.evaluation.pair_sets import load_pairs
from siamese_diffusion.evaluation.report.page import write_page
from siamese_diffusion.tools.pairs import write_pairs
from support import no_network
from support.browser import InThePage
from support.evaluation_run import BUDGET, evaluate, evaluate_as_module
from support.folder_locks import hold
from support.needs import Need

linux: pytest.MarkDecorator = Need.LINUX.unless(no_network.AVAILABLE)
pytestmark = pytest.mark.slow  # whole trainings

pytest_plugins = ["support.browser", "support.evaluation_run"]

SECTIONS = ["summary", "pictures", "downstream", "alignment", "fidelity", "memorisation", "method"]


def test_every_arm_is_trained_and_compared_by_image_and_by_group(
    evaluation_report: dict[str, Any],
) -> None:
    table = {row["arm"]: row for row in evaluation_report["downstream"]["table"]}
    sets = ("new", "new (filtered)")
    expected = {"real", "real + augmentation"}
    for name in sets:
        expected |= {f"{name} only", f"real + 0.5x {name}", f"real + 1x {name}"}
    left_out = " ".join(evaluation_report["downstream"]["left_out"])
    assert set(table) | {name for name in expected if name in left_out} == expected
    pairs = evaluation_report["downstream"]
    assert pairs["training_pairs"] + pairs["validation_pairs"] == 48
    assert (pairs["test_pairs"], pairs["test_groups"]) == (24, 12)
    row = table["real + 1x new"]
    assert row["real_pairs"] == row["synthetic_pairs"] == pairs["training_pairs"]
    for figures in row["segmenters"].values():
        for metric in ("dice", "iou", "hd95"):
            by_image = figures[metric]["difference"]
            by_group = figures[metric]["difference_by_group"]
            assert (by_image["n"], by_group["n"]) == (24, 12)
            for found in (by_image, by_group):
                assert found["low"] <= found["mean"] <= found["high"]
    assert set(row["segmenters"]) == {"unet_small", "fpn_small", "all"}


def test_every_measure_is_there_with_its_floor_and_n(evaluation_report: dict[str, Any]) -> None:
    ceiling, new = evaluation_report["alignment"]
    assert ceiling["real"] and ceiling["set"] == "real_test"
    assert new["shuffled"]["n"] == 44
    assert "trained on 24 real training pairs" in evaluation_report["fidelity"]["features"]
    honest = evaluation_report["fidelity"]["honest"]
    assert honest["reference"] == "real_test" and honest["n"] == 12
    assert [row["set"] for row in honest["rows"]] == ["real_train", "new"]
    published = evaluation_report["fidelity"]["published"]
    assert published["reference"] == "real_train"
    assert [row["set"] for row in published["rows"]] == ["real_test", "new"]
    assert [row["set"] for row in evaluation_report["diversity"]] == ["real_train", "new"]
    assert len(evaluation_report["memorisation"]) == 2
    for row in evaluation_report["memorisation"]:
        assert len(row["distances"]) == 44 and len(row["closest"]) == 8
        assert len(row["groups"]) == 24 and len(row["floor_groups"]) == 12
    assert evaluation_report["about"]["quick"] is True


def test_scores_and_the_filtered_list_name_every_pair(
    evaluation_out: Path, evaluation_report: dict[str, Any]
) -> None:
    lines = (evaluation_out.parent / "scores.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 44
    assert all(0 <= json.loads(line)["uncertainty"] <= 1 for line in lines)
    folder = evaluation_out / "filtered" / "new"
    kept = read_prompt_jsonl(folder / "prompt.jsonl").pairs
    dropped = (folder / "dropped.jsonl").read_text("utf-8").splitlines()
    assert len(kept) + len(dropped) == 44
    assert evaluation_report["filter"]["sets"] == [{"set": "new", "pairs": 44, "kept": len(kept)}]
    assert all(pair.image.is_file() and pair.mask.is_file() for pair in kept)


def figures(out: Path) -> dict[str, Any]:
    """The report without what the clock decides."""
    report = json.loads((out / "report.json").read_text("utf-8"))
    return {name: found for name, found in report.items() if name != "seconds"}


def test_the_same_seed_gives_the_same_report_where_all_is_trained_again(
    evaluation_data: list[str], tmp_path: Path
) -> None:
    budget = ("--quick", "--steps=6", "--seeds=1", "--segmenters=fpn_small", "--ratios=1")
    seeds = {"first": 3, "again": 3, "other": 4}
    for name, seed in seeds.items():
        done = evaluate(
            *evaluation_data,
            f"--out={tmp_path / name}",
            f"--seed={seed}",
            "--batch_size=4",
            *budget,
        )
        assert done.returncode == 0, done.stderr
    assert figures(tmp_path / "again") == figures(tmp_path / "first")
    other = figures(tmp_path / "other")["downstream"]["table"]
    assert other != figures(tmp_path / "first")["downstream"]["table"]


def test_resume_gives_the_same_report_and_trains_nothing(
    evaluation_data: list[str], evaluation_out: Path, tmp_path: Path
) -> None:
    times = {path: path.stat().st_mtime_ns for path in (evaluation_out / "runs").iterdir()}
    first = figures(evaluation_out)
    refused = evaluate(*evaluation_data, f"--out={evaluation_out}", *BUDGET)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    flags = (f"--out={evaluation_out}", "--keep=0.02,0.98", "--resume")
    done = evaluate_as_module(tmp_path, *evaluation_data, *flags, *BUDGET)
    assert done.returncode == 0, done.stderr
    assert figures(evaluation_out) == first
    assert {path: path.stat().st_mtime_ns for path in (evaluation_out / "runs").iterdir()} == times


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--synthetic=new"], "expected NAME=prompt.jsonl"),
        (["--synthetic=real_x=a.jsonl"], "does not begin with real"),
        (["--keep=0.9,0.2"], "expected LOW,HIGH"),
        (["--ratios=0"], "expected numbers from 0.001 to 1000"),
        (["--resolution=100"], "expected a multiple of 32"),
        (["--segmenters=unet,vnet"], "expected some of unet, fpn"),
        (["--features_model=resnet50"], "needs the weights"),
        (["--scores=/no/such/folder/scores.jsonl"], "its folder does not exist"),
    ],
)
def test_wrong_flags_are_refused_in_words(
    evaluation_data: list[str], tmp_path: Path, flags: list[str], words: str
) -> None:
    done = evaluate(*evaluation_data, f"--out={tmp_path / 'out'}", *flags)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_second_evaluation_in_the_folder_of_a_running_one_is_refused(
    evaluation_data: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with hold(out, LOCK) as holder:
        for more in ([], ["--resume"]):
            done = evaluate(*evaluation_data, f"--out={out}", *more)
            assert done.returncode == 2
            assert f"--out {out}: another evaluation is running in it" in done.stderr
            assert f"process {holder.pid} on" in done.stderr
        assert [*out.iterdir()] == [out / LOCK]


def test_all_that_is_wrong_with_the_pairs_is_said_at_once(
    evaluation_data: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"source": "m.png", "target": "i.png", "prompt": ""}\nnonsense\n', "utf-8")
    done = evaluate(*evaluation_data, f"--synthetic=bad={bad}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    for words in ("line 1: image", "line 1: mask", "line 2: not JSON"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("jobs", "needed"), [(1, 18 + 8), (2, 3 * 18 + 8)])
def test_pairs_that_do_not_fit_into_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, needed: int
) -> None:
    """A pair of 512 x 512 pixels takes 1 MiB, and the largest set is held twice."""
    train, test, new = (
        write_pairs(tmp_path / str(seed), count, 32, seed) for seed, count in enumerate((8, 3, 7))
    )
    flags = [f"--real_train={train}", f"--real_test={test}", f"--synthetic=new={new}"]
    flags += [f"--out={tmp_path / 'out'}", f"--jobs={jobs}", "--resolution=512"]
    request = parse_args(flags)
    monkeypatch.setattr(inputs, "free_memory", lambda: needed << 20)
    assert read_inputs(request).resolution == 512
    monkeypatch.setattr(inputs, "free_memory", lambda: (needed << 20) - 1)
    monkeypatch.setattr(inputs, "load_pairs", None)
    with pytest.raises(DatasetError, match="18 pairs at 512 x 512 pixels need"):
        read_inputs(request)


def test_a_leak_stops_the_evaluation_and_names_the_files(
    evaluation_data: list[str], tmp_path: Path
) -> None:
    test = evaluation_data[1].partition("=")[2]
    done = evaluate(
        *evaluation_data, f"--synthetic=leak={test}", f"--out={tmp_path / 'out'}", "--quick"
    )
    assert done.returncode == 2
    assert "has the pixels of the test image" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_needs_nothing_else(evaluation_out: Path) -> None:
    page = (evaluation_out / "report.html").read_text("utf-8")
    assert "://" not in page
    assert "<script" not in page


def test_with_too_few_images_the_report_says_what_is_left_out(tmp_path: Path) -> None:
    train, test, new = (
        write_pairs(tmp_path / name, count, 32, seed)
        for seed, (name, count) in enumerate((("train", 6), ("test", 2), ("new", 1)))
    )
    data = (f"--real_train={train}", f"--real_test={test}", f"--synthetic=new={new}")
    budget = ("--quick", "--steps=2", "--seeds=1", "--segmenters=fpn_small", "--ratios=0.01,1")
    done = evaluate(*data, f"--out={tmp_path / 'out'}", *budget)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["downstream"]["left_out"] == [
        "real + 0.01x new: 0.01 x 4 real pairs is less than one pair",
        "real + 1x new: needs 4 synthetic pairs (1 for each of 4 real ones); new has 1",
    ]
    assert (
        report["downstream"]["table"][2]["segmenters"]["all"]["dice"]["difference"]["low"] is None
    )
    assert "half of the smallest set is 0 images" in report["fidelity"]["honest"]["left_out"]
    assert "1 images in the smallest set" in report["diversity"][0]["left_out"]
    assert "2 test images" in report["memorisation"][0]["left_out"]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "no interval: 2 are too few" in page
    assert "no share" in page.lower()


def test_too_few_real_pairs_are_refused(tmp_path: Path) -> None:
    train, test = (write_pairs(tmp_path / name, 3, 32, seed) for seed, name in enumerate("ab"))
    data = (f"--real_train={train}", f"--real_test={test}", f"--synthetic=new={train}")
    done = evaluate(*data, f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "3 pairs of 3 different images; at least 6" in done.stderr


def test_features_that_the_user_gave_are_not_said_to_be_none_of_inception(
    evaluation_data: list[str], evaluation_report: dict[str, Any], tmp_path: Path
) -> None:
    train, new = (
        load_pairs(name, read_prompt_jsonl(Path(data.rpartition("=")[2])).pairs, 32)
        for name, data in (("real_train", evaluation_data[0]), ("new", evaluation_data[2]))
    )
    for given in (False, True):
        about = {**evaluation_report["about"], "features_given": given}
        page = write_page(
            tmp_path / "report.html", {**evaluation_report, "about": about}, train, [new]
        )
        assert ("not Inception features" in page.read_text("utf-8")) == (not given)


# The page in a real browser


def test_the_page_is_whole_in_a_browser(
    evaluation_out: Path, evaluation_report: dict[str, Any], in_the_page: InThePage
) -> None:
    found = in_the_page((evaluation_out / "report.html").as_uri(), "report.mjs")
    assert found["problems"] == []
    assert found["fetched"] == [(evaluation_out / "report.html").as_uri()[:80]]
    assert [section["id"] for section in found["sections"]] == SECTIONS
    assert all(section["height"] > 80 for section in found["sections"])
    smoke = {section["id"]: section["smoke"] for section in found["sections"]}
    assert all(smoke[name] for name in SECTIONS if name not in ("pictures", "method"))
    assert found["title"].startswith("Smoke run")
    # 3 + 1 + 2 + 2 plots; 8 pictures of each of two sets; 8 closest pairs for each of two spaces.
    assert found["pictures"] == 8 + 16 + 32
    assert found["undecoded"] == []
    assert found["unnamed"] == 0
    assert found["overflow"] <= 0
    dice = evaluation_report["alignment"][1]["dice"]["mean"]
    assert f"{dice:.3f}" in found["text"]


# Privacy


@linux
@pytest.mark.usefixtures("evaluation_out")
def test_the_evaluation_sends_nothing() -> None:
    """Its only run of the tests would have been killed."""
    assert no_network.PREFIX[-1].endswith("no_network.py")


def test_an_anonymous_report_tells_of_no_path_name_or_group(
    evaluation_data: list[str], evaluation_out: Path, tmp_path: Path
) -> None:
    """Made again from the trainings that another test has left."""
    out = tmp_path / "out"
    shutil.copytree(evaluation_out, out)
    done = evaluate(*evaluation_data, f"--out={out}", "--resume", "--anonymous", *BUDGET)
    assert done.returncode == 0, done.stderr
    folder = str(Path(evaluation_data[0].partition("=")[2]).parents[1])
    for name in ("report.json", "report.html"):
        told, untold = ((place / name).read_text("utf-8") for place in (evaluation_out, out))
        names = re.compile(rf"{re.escape(folder)}|\w\.png|(?<!real_)(?:train|test) \d")
        assert names.search(told)
        assert not names.search(untold)
    assert untold.count("<img") < told.count("<img")  # those of real images
