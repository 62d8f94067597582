"""What a run folder takes, keeps and refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.run import metrics
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.run.resume import FREE_TO_CHANGE, differences
from siamese_diffusion.training.run.states import read_state
from siamese_diffusion.training.train_siamese import main
from support.paths import TRAIN_SCRIPT
from support.processes import heed_permissions, run
from support.tiny_runs import flags, train

# What is refused


def test_another_name_does_not_overwrite_a_run(
    tiny: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny, pairs, tmp_path, "--train_batch_size=2", "--max_train_steps=1")
    files = {path: path.read_bytes() for path in tmp_path.glob("*.json*")}
    assert len(files) == 2
    assert main(flags(tiny, pairs, tmp_path, "--output_name=other")) == 2
    message = capsys.readouterr().err
    assert "--output_name is 'other'" in message
    assert "of a run with the name 'siamese'" in message
    assert {path: path.read_bytes() for path in files} == files


def test_a_base_model_that_is_missing_leaves_the_folder_alone(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (history := tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert main(flags(tmp_path / "none.safetensors", pairs, tmp_path)) == 2
    assert "no such file" in capsys.readouterr().err
    assert history.read_text() == '{"step": 1}\n'
    assert list(tmp_path.iterdir()) == [history]


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_an_output_folder_that_is_a_file(
    out: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "file").touch()
    assert main(flags(tmp_path / "none.safetensors", pairs, tmp_path / out)) == 2
    assert f"error: --output_dir {tmp_path / out}: {file} is a file" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written(pairs: Path, tmp_path: Path) -> None:
    """In a process of its own, which may not write everywhere even where root runs the tests."""
    (locked := tmp_path / "locked").mkdir(mode=0o500)
    arguments = flags(tmp_path / "none.safetensors", pairs, locked / "out")
    found = run([sys.executable, TRAIN_SCRIPT, *arguments], before=heed_permissions)
    assert found.returncode == 2
    message = f"error: --output_dir {locked / 'out'}: {locked} cannot be written to"
    assert message in found.stderr


def test_a_dry_run_is_refused_where_the_run_would_be(
    tiny: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, more = tmp_path / "out", ["--train_batch_size=2", "--max_train_steps=1"]
    train(tiny, pairs, out, *more)
    arguments = flags(tiny, pairs, out, *more)
    assert main([*arguments, "--dry_run"]) == 2
    assert "that run is finished. Choose another --output_dir." in capsys.readouterr().err
    (out / "siamese.safetensors").unlink()
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    assert main([*arguments, "--dry_run", "--seed=7"]) == 2
    assert "--seed was 42, is 7" in capsys.readouterr().err
    assert main([*arguments, "--dry_run"]) == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before


def test_differences_are_found_on_both_sides() -> None:
    previous = {"seed": 1, "min_snr_gamma": 5.0, "metadata_title": "A", "keep_last_n": 2}
    record = {"seed": 1, "noise_offset": 0.1, "keep_last_n": 3, "num_processes": 2}
    assert differences(previous, record, FREE_TO_CHANGE) == [
        "--min_snr_gamma was 5.0, is None",
        "--noise_offset was None, is 0.1",
    ]
    processes = differences({"num_processes": 1}, record, set())
    assert "--num_processes was 1, is 2" in processes


def test_the_pairs_of_a_step_may_be_split_otherwise() -> None:
    def split(processes: int, size: int, passes: int) -> dict[str, int]:
        names = ("num_processes", "train_batch_size", "gradient_accumulation_steps")
        return dict(zip(names, (processes, size, passes), strict=True))

    assert differences(split(8, 6, 1), split(2, 3, 8), set()) == []
    assert differences(split(8, 6, 1), split(4, 6, 1), set()) == ["--num_processes was 8, is 4"]


# What it keeps


def write_run(folder: RunFolder, *steps: int) -> None:
    """States and intermediate weights that only have their names."""
    for step in steps:
        folder.clear(folder.unfinished_state(step))
        (folder.unfinished_state(step) / "mark").write_text(f"first {step}")
        folder.complete_state(folder.unfinished_state(step), step, {"output_name": folder.name})
        folder.weights(step).touch()


def test_going_back_sets_aside_what_came_later(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "polyps")
    write_run(folder, 600, 700)
    lines = [json.dumps({"step": step}) + "\n" for step in (600, 700)]
    folder.metrics.write_text("".join(lines))
    folder.begin({"output_name": "polyps"}, 600)
    write_run(folder, 610)
    folder.prune(2)
    assert [read_state(path)[0] for path in folder.complete_states()] == [600, 610]
    assert folder.intermediate_weights() == [folder.weights(600), folder.weights(610)]
    assert folder.metrics.read_text() == lines[0]
    aside = tmp_path / "set_aside_1"
    assert (aside / "step00000700/mark").read_text() == "first 700"
    assert (aside / folder.weights(700).name).is_file()


def test_saving_a_step_again_never_leaves_it_without_a_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path, "polyps")
    write_run(folder, 5)
    folder.clear(folder.unfinished_state(5))
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path == folder.unfinished_state(5):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.complete_state(folder.unfinished_state(5), 5, {})
    [mark] = tmp_path.rglob("mark")
    assert mark.read_text() == "first 5"
    assert read_state(mark.parent) == (5, {"output_name": "polyps"})


def test_only_what_a_run_has_left_unfinished_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "polyps")
    theirs = [
        ".my_project.tmp/notes", ".notes.txt.12.tmp", ".other.safetensors.12.tmp",
        ".polyps-final.safetensors.12.tmp", "sample/.mine.tmp/notes", "state/.backup.tmp/notes",
        "state/.step1.tmp/notes", ".config.json.tmp", ".polyps.safetensors.12.tmp.bak",
    ]  # fmt: skip
    ours = [
        ".polyps.safetensors.12.tmp", ".polyps-step00000005.safetensors.12.tmp",
        ".config.json.12.tmp", ".metrics.jsonl.12.tmp", ".losses.png.12.tmp",
        "sample/.polyps-step00000005.png.12.tmp", "state/.step00000005.tmp/weights.safetensors",
        "..text-0123456789abcdef.npy.12.tmp",
    ]  # fmt: skip
    for name in [*theirs, *ours]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder.begin({"output_name": "polyps"}, 0)
    assert [name for name in theirs if not (tmp_path / name).exists()] == []
    assert [name for name in ours if (tmp_path / name).exists()] == []
    assert list((tmp_path / "state").glob(".step0*")) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", "\0\0"])
def test_a_damaged_configuration_is_one_message(
    content: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(content)
    assert main(flags(tmp_path / "none.safetensors", pairs, tmp_path)) == 2
    message = capsys.readouterr().err
    assert f"error: {tmp_path / 'config.json'}: damaged" in message
    assert "delete the file" in message


GOOD = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3)]


@pytest.mark.parametrize("damage", ["\0\0\0\n", '{"step": 2, "lo\n', "[]\n", '{"loss": 1}\n'])
def test_a_damaged_line_of_the_history_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(GOOD[0] + damage + GOOD[2])
    with pytest.raises(ConfigError, match=r"metrics.jsonl, line 2: damaged .* delete the line"):
        metrics.lines_until(path, 3)
    assert metrics.lines_until(path, 1) == GOOD[:1]  # the rest is written again


@pytest.mark.parametrize("cut", range(1, len(GOOD[2]) + 1))
def test_half_a_line_at_the_end_is_written_again(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(GOOD)[:-cut])
    assert metrics.lines_until(path, 2) == GOOD[:2]


def test_a_state_that_is_removed_is_complete_or_has_lost_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path, "polyps")
    write_run(folder, 5, 6)

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.prune(1)
    assert [path.name for path in folder.complete_states()] == ["step00000006"]
