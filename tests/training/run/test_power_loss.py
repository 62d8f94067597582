"""Loss of power: whatever a run shows under its final name is whole on the disk."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from siamese_diffusion.common.files import replacing
from siamese_diffusion.models.weights import read_weights
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.train_siamese import main
from support.needs import Need
from support.power_loss import DurableDisk, Moments, put_back
from support.tiny_runs import flags

pytestmark = [pytest.mark.slow, Need.LINUX.unless(sys.platform == "linux")]

STATE_FILES = {"weights.safetensors", "ema.safetensors", "optimizer.pt", "state.json"}


def states(files: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Files of each state under its final name, by state."""
    found: dict[str, dict[str, bytes]] = {}
    for path, content in files.items():
        if match := re.fullmatch(r"out/state/(step\d{8})/(.+)", path):
            found.setdefault(match[1], {})[match[2]] = content
    return found


def assert_whole(disk: DurableDisk) -> None:
    """Every weight file and state that is found after a loss of power at this moment."""
    files = disk.files()
    for path, content in files.items():
        if path.endswith(".safetensors") and "/." not in path:
            assert load(content), path
    for name, content in states(files).items():
        assert content.keys() == STATE_FILES, name
        torch.load(io.BytesIO(content["optimizer.pt"]), weights_only=True)
        step = json.loads(content["state.json"])["step"]
        lines = files["out/metrics.jsonl"].decode().splitlines()
        assert [json.loads(line)["step"] for line in lines][:step] == [*range(1, step + 1)]


def test_states_and_weights_outlive_a_loss_of_power(
    tiny: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = RunFolder.complete_state

    def complete_and_check(folder: RunFolder, *arguments: object) -> None:
        complete(folder, *arguments)  # type: ignore[arg-type]
        newest = folder.latest_state()
        assert newest is not None and newest.name in states(disk.files())

    more = ["--train_batch_size=2", "--ema_decay=0.9", "--save_every_n_steps=1", "--keep_last_n=1"]
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "complete_state", complete_and_check)
        disk = DurableDisk(tmp_path, patch, assert_whole)
        assert main(flags(tiny, pairs, tmp_path / "out", *more)) == 0
    assert "out/siamese.safetensors" in disk.files()
    disk.close()


def test_a_run_goes_on_from_what_a_loss_of_power_has_left(
    tiny: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At random moments; the folder is where the run is started again, with that alone in it."""
    more = ["--train_batch_size=2", "--ema_decay=0.9", "--save_every_n_steps=1"]
    out, moments = tmp_path / "out", Moments(3)
    with monkeypatch.context() as patch:
        disk = DurableDisk(tmp_path, patch, moments)
        assert main(flags(tiny, pairs, out, *more)) == 0
    disk.close()
    expected = read_weights(out / "siamese.safetensors").tensors
    for content in moments.kept:
        shutil.rmtree(out)
        put_back(content, tmp_path)
        if not (out / "siamese.safetensors").exists():
            assert main(flags(tiny, pairs, out, *more)) == 0
        found = read_weights(out / "siamese.safetensors").tensors
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def test_a_replaced_file_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    with replacing(path) as temporary:
        temporary.write_text("old")
    seen: list[bytes | None] = []
    with monkeypatch.context() as patch:
        disk = DurableDisk(tmp_path, patch, lambda disk: seen.append(disk.files().get("file")))
        disk.content[path.stat().st_ino] = b"old"
        with replacing(path) as temporary:
            temporary.write_text("new")
    disk.close()
    assert set(seen) == {b"old", b"new"}
    assert seen[-1] == b"new"
