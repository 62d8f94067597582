"""What happens to files under a run: it ends with one line, and loses nothing that was saved."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from siamese_diffusion.models.weights import StateDict, read_weights
from siamese_diffusion.training.data import pair_pictures
from siamese_diffusion.training.run.trainer import Trainer
from siamese_diffusion.training.train_siamese import main
from support.full_disk import at_most
from support.processes import without_rights
from support.tiny_runs import flags, losses, train

pytestmark = pytest.mark.slow  # whole trainings

FLAGS = [
    "--train_batch_size=2", "--max_train_steps=5", "--save_every_n_steps=1",
    "--cache_latents_to_disk",
]  # fmt: skip
SAVED = "state/step00000001"

Disturb = Callable[[], object]
Disturbance = AbstractContextManager[Disturb]  # gives what disturbs; ends by putting it right


@pytest.fixture(scope="module")
def data(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs that may be damaged."""
    folder = shutil.copytree(pairs.parent, tmp_path_factory.mktemp("data") / "pairs")
    return Path(folder) / "prompt.jsonl"


@pytest.fixture
def reading_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with more images than are kept in memory."""
    monkeypatch.setattr(pair_pictures, "IMAGE_MEMORY", 0)


def disturbed(
    arguments: list[str],
    step: int,
    disturb: Disturb,
    capsys: pytest.CaptureFixture[str],
    code: int = 1,
) -> str:
    """The error of a run that is disturbed in that step; "" with code 0."""
    train_step = Trainer.train_step

    def disturbing(trainer: Trainer) -> object:
        if trainer.step == step - 1:
            disturb()
        return train_step(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", disturbing)
        assert main(arguments) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    lines = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert len(lines) == code
    return lines[0] if lines else ""


def weights(out: Path) -> StateDict:
    return read_weights(out / "siamese.safetensors").tensors


# One run through all of these: each of them is met, put right, and resumed from.


@contextmanager
def full_disk(size: int) -> Iterator[Disturb]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(at_most(size))


@contextmanager
def full_for_weights(_data: Path, out: Path) -> Iterator[Disturb]:
    with full_disk((out / SAVED / "weights.safetensors").stat().st_size - 1) as disturb:
        yield disturb


@contextmanager
def full_for_the_optimizer(_data: Path, out: Path) -> Iterator[Disturb]:
    sizes = [
        (out / SAVED / name).stat().st_size for name in ("weights.safetensors", "optimizer.pt")
    ]
    assert sizes[0] < sizes[1]
    with full_disk(sizes[0] + 1) as disturb:
        yield disturb


@contextmanager
def full_for_metrics(_data: Path, out: Path) -> Iterator[Disturb]:
    with full_disk((out / "metrics.jsonl").read_bytes().index(b"\n") + 20) as disturb:
        yield disturb


@contextmanager
def moved(path: Path, kept: Path) -> Iterator[Disturb]:
    yield lambda: path.rename(kept)
    kept.rename(path)


def without_images(data: Path, _out: Path) -> Disturbance:
    return moved(data.parent / "images", data.parent / "elsewhere")


def without_cache(_data: Path, out: Path) -> Disturbance:
    return moved(out.parent / ".siamese_cache", out.parent / "elsewhere")


@contextmanager
def with_other_masks(data: Path, _out: Path) -> Iterator[Disturb]:
    masks, kept = data.parent / "masks", data.parent / "elsewhere"

    def turn() -> None:
        shutil.copytree(masks, kept)
        for path in masks.iterdir():
            with Image.open(path) as mask:
                turned = mask.rotate(90)
            turned.save(path)

    yield turn
    shutil.rmtree(masks)
    kept.rename(masks)


@contextmanager
def with_a_file_in_place_of_the_states(_data: Path, out: Path) -> Iterator[Disturb]:
    states, kept = out / "state", out / "elsewhere"

    def replace() -> None:
        states.rename(kept)
        states.touch()

    yield replace
    states.unlink()
    kept.rename(states)


@contextmanager
def read_only(_data: Path, out: Path) -> Iterator[Disturb]:
    with ExitStack() as stack:

        def forbid() -> None:
            (out / "state").chmod(0o555)
            stack.enter_context(without_rights())

        yield forbid
    (out / "state").chmod(0o755)


@contextmanager
def no_memory(_data: Path, _out: Path) -> Iterator[Disturb]:
    """Python's own error; torch's are in test_failures.py."""

    def fail(*_: object) -> None:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        yield lambda: patch.setattr(Trainer, "_backpropagate", fail)


MET: list[tuple[Callable[[Path, Path], Disturbance], str]] = [
    (full_for_weights, "weights.safetensors: File too large. "),
    (full_for_the_optimizer, "optimizer.pt: File too large. "),
    (full_for_metrics, "metrics.jsonl: File too large. "),
    (without_images, ".png: cannot be read any more (No such file or directory). "),
    (with_other_masks, ".png: has changed since training began; "),
    (without_cache, "--cache_latents_to_disk: "),
    (with_a_file_in_place_of_the_states, ": Not a directory. "),
    (read_only, ": Permission denied. "),
    (no_memory, ": out of memory (MemoryError). "),
]


@pytest.mark.usefixtures("reading_every_step")
def test_whatever_happens_to_its_files_a_run_is_finished_as_if_nothing_had(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, out = tmp_path / "undisturbed/out", tmp_path / "disturbed/out"
    train(tiny, data, undisturbed, *FLAGS)
    arguments = flags(tiny, data, out, *FLAGS)
    shutil.copytree(undisturbed.parent / ".siamese_cache", out.parent / ".siamese_cache")
    # Stopped once it has saved its first state.
    disturbed(arguments, 1, lambda: signal.raise_signal(signal.SIGTERM), capsys, 0)
    for disturbance, message in MET:
        with disturbance(data, out) as disturb:
            line = disturbed(arguments, 2, disturb, capsys)
            assert message in line, disturbance
            if disturbance is not with_a_file_in_place_of_the_states:
                assert f"The last state is kept: {out / SAVED}. " in line, disturbance
                assert "he same command resumes from it" in line
        assert [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"] == []
        assert [path.name for path in (out / "state").iterdir()] == [Path(SAVED).name]
    assert main(arguments) == 0
    found, known = weights(out), weights(undisturbed)
    assert [key for key in known if not torch.equal(found[key], known[key])] == []
    assert losses(out) == losses(undisturbed)


def test_a_folder_that_is_removed_before_the_first_state(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = flags(tiny, data, out, "--train_batch_size=2", "--max_train_steps=2")
    line = disturbed(arguments, 1, lambda: shutil.rmtree(out), capsys)
    assert "metrics.jsonl: No such file or directory. No state was saved yet. " in line
    assert line.endswith("the same command begins anew.")
    assert main(arguments) == 0


# A disk that is full already


def test_what_a_killed_run_has_left_counts_as_free(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that needs the room of a half-written state removes it."""
    out = tmp_path / "out"
    half = out / "state/.step00000001.tmp/weights.safetensors"
    half.parent.mkdir(parents=True)
    half.write_bytes(bytes(200_000_000))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    arguments = flags(tiny, data, out, "--train_batch_size=2", "--max_train_steps=1")
    assert main([*arguments, "--dry_run"]) == 0
    half.unlink()
    assert main([*arguments, "--dry_run"]) == 2
