"""States that are damaged: one message before anything is loaded, and the next older one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from accelerate import Accelerator
from siamese_diffusion.models.weights import read_weights, write_weights
from siamese_diffusion.training.hosts.standalone import Standalone
from siamese_diffusion.training.run.gradient_update import (
    DEEPSPEED_FOLDER,
    DeepSpeedGradientUpdate,
)
from siamese_diffusion.training.run.states import EMA, WEIGHTS, DamagedStateError, write_facts
from siamese_diffusion.training.train_siamese import main
from support.tiny_runs import flags, train

pytestmark = pytest.mark.slow  # whole trainings

MORE = ["--train_batch_size=2", "--ema_decay=0.9", "--save_every_n_steps=1", "--keep_last_n=3"]
FILES = ["weights.safetensors", "ema.safetensors", "optimizer.pt", "state.json"]


@pytest.fixture(scope="module")
def saved(tiny: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with states of three steps, killed before its last weights."""
    folder = tmp_path_factory.mktemp("saved") / "out"
    train(tiny, pairs, folder, *MORE)
    (folder / "siamese.safetensors").unlink()
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "out"))


def arguments(tiny: Path, pairs: Path, run: Path, *more: str) -> list[str]:
    return flags(tiny, pairs, run, *MORE, *more)


def harm(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        half = content[: len(content) // 2]
        path.write_bytes(half if how == "cut short" else b"\0" * len(content))


@pytest.mark.parametrize("how", ["cut short", "of zeros", "missing"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_state_is_refused_before_anything_is_loaded(
    file: str,
    how: str,
    tiny: Path,
    pairs: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm(run / "state/step00000003" / file, how)
    harm(run / "state/step00000002" / "optimizer.pt", "cut short")
    monkeypatch.setattr(Standalone, "load_base_model", None)
    for more in ([], [f"--resume={run / 'state/step00000003'}"]):
        assert main(arguments(tiny, pairs, run, *more)) == 2
        [line] = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error: ")]
        assert f"{run / 'state/step00000003'}: cannot be resumed from" in line
        assert file in line
        assert f"give --resume {run / 'state/step00000001'} to resume from it" in line


def test_the_older_state_that_is_offered_resumes(tiny: Path, pairs: Path, run: Path) -> None:
    harm(run / "state/step00000003/optimizer.pt", "cut short")
    assert main(arguments(tiny, pairs, run, f"--resume={run / 'state/step00000002'}")) == 0
    assert (run / "set_aside_1/step00000003").is_dir()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_without_an_older_state_another_folder_is_advised(
    tiny: Path, pairs: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for state in (run / "state").iterdir():
        harm(state / "optimizer.pt", "missing")
    assert main(arguments(tiny, pairs, run)) == 2
    assert "no older state: choose another --output_dir to start over" in capsys.readouterr().err


def test_damage_that_only_loading_finds_is_the_same_message(
    tiny: Path,
    pairs: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A whole file that lacks a tensor of the decoder, which was accepted once."""
    path = run / "state/step00000003/weights.safetensors"
    file = read_weights(path)
    missing = next(
        key for key in file.decoder() if key.endswith("output_blocks.0.0.in_layers.2.bias")
    )
    write_weights(path, {k: v for k, v in file.tensors.items() if k != missing}, file.metadata)
    assert main(arguments(tiny, pairs, run)) == 2
    message = capsys.readouterr().err
    assert f"1 missing: {missing}" in message
    assert f"give --resume {run / 'state/step00000002'}" in message


@pytest.mark.parametrize("how", ["empty", "cut short"])
def test_a_damaged_state_of_deepspeed(how: str, tmp_path: Path) -> None:
    """DeepSpeed warns of an empty folder and goes on; half a file it cannot read."""

    def load_checkpoint(*_: object, **__: object) -> tuple[None, dict]:
        if how == "cut short":
            raise RuntimeError("PytorchStreamReader failed reading zip archive\nmore")
        return None, {}

    update = object.__new__(DeepSpeedGradientUpdate)
    update._engine = SimpleNamespace(load_checkpoint=load_checkpoint)
    update.accelerator = cast("Accelerator", SimpleNamespace(num_processes=2))
    write_facts(tmp_path, 1, {"num_processes": 2})
    (tmp_path / DEEPSPEED_FOLDER).mkdir()
    with pytest.raises(DamagedStateError, match=f"{DEEPSPEED_FOLDER}: "):
        update.load(tmp_path)


def test_a_resumed_ema_is_the_saved_one(tiny: Path, pairs: Path, run: Path, tmp_path: Path) -> None:
    """Resumed at step 2, the EMA after step 3 is that of the run that was not stopped."""
    other = tmp_path / "other"
    state = run / "state/step00000002"
    assert main(arguments(tiny, pairs, other, f"--resume={state}")) == 0
    known = read_weights(run / "state/step00000003" / EMA).tensors
    found = read_weights(other / "siamese.safetensors").tensors
    plain = read_weights(run / "state/step00000003" / WEIGHTS).tensors
    differences = [(found[key] - known[key]).abs().max() for key in known]
    assert max(differences) < 1e-6
    assert max((plain[key] - known[key]).abs().max() for key in known) > 1e-4
