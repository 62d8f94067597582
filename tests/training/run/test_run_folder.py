"""What a run folder takes, keeps and refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from siamese_diffusion.training.run.checkpoint import load_ema
from siamese_diffusion.training.run.folder import RunFolder, read_state
from siamese_diffusion.training.run.resume import FREE_TO_CHANGE, differences
from siamese_diffusion.training.train_siamese import main
from support.tiny_runs import flags, train
from torch import nn

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


@pytest.mark.parametrize("out", ["file", "file/below", "locked/out"])
def test_an_output_folder_that_cannot_be_written(
    out: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)
    if out == "locked/out" and os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("needs a user who may not write everywhere")
    assert main(flags(tmp_path / "none.safetensors", pairs, tmp_path / out)) == 2
    message = capsys.readouterr().err
    place = tmp_path / Path(out).parts[0]
    what = "is a file" if place.is_file() else "cannot be written to"
    assert f"error: --output_dir {tmp_path / out}: {place} {what}" in message


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


def test_a_resumed_average_is_where_the_weights_are(tmp_path: Path) -> None:
    saved = EMAModel([nn.Parameter(torch.ones(2))], decay=0.5)
    torch.save(saved.state_dict(), tmp_path / "ema.pt")
    meta = torch.device("meta")
    average = EMAModel([nn.Parameter(torch.ones(2, device=meta))], decay=0.9)
    load_ema(average, tmp_path / "ema.pt", meta)
    assert average.decay == 0.5
    assert [tensor.device for tensor in average.shadow_params] == [meta]
