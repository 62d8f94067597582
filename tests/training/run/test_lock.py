"""One output folder has one training at a time, and no lock outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.run import lock as locks
from siamese_diffusion.training.run.lock import LOCK, check_lock, lock
from siamese_diffusion.training.train_siamese import main
from support.paths import ROOT
from support.tiny_runs import flags

HOLDER = """\
import importlib.util, os, sys
root, folder, fork = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "siamese_diffusion", root + "/__init__.py", submodule_search_locations=[root])
module = sys.modules["siamese_diffusion"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pathlib import Path
from siamese_diffusion.training.run.lock import lock
with lock(Path(folder)):
    if fork == "fork" and os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path, fork: str = "") -> subprocess.Popen[str]:
    """A process that holds the folder until its input is closed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ROOT), str(folder), fork],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with hold(tmp_path / "out") as holder:
        yield holder
        assert holder.stdin is not None
        holder.stdin.close()


@pytest.mark.parametrize("more", [[], ["--dry_run"]])
def test_a_second_training_is_refused(
    more: list[str], held: subprocess.Popen[str], tiny: Path, pairs: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    content = (tmp_path / "out" / LOCK).read_bytes()
    assert main(flags(tiny, pairs, tmp_path / "out", *more)) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert f"--output_dir {tmp_path / 'out'}: another training is running in it" in line
    assert f"process {held.pid} on" in line and "choose another --output_dir" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
    assert (tmp_path / "out" / LOCK).read_bytes() == content


@pytest.mark.parametrize("fork", ["", "fork"])
def test_a_killed_owner_leaves_no_lock_even_to_its_children(fork: str, tmp_path: Path) -> None:
    with hold(tmp_path, fork) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / LOCK).is_file()
        check_lock(tmp_path)
        with lock(tmp_path):
            assert str(os.getpid()) in (tmp_path / LOCK).read_text()
        assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\0", b"[" * 900, b'{"process": null}'])
def test_whatever_a_stale_file_holds(content: bytes, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(content)
    with lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_of_a_running_training_is_still_a_message(
    held: subprocess.Popen[str], tmp_path: Path
) -> None:
    for content in ("{", "[" * 900, '{"process": 1e999, "host": 1}'):
        (tmp_path / "out" / LOCK).write_text(content)
        with pytest.raises(ConfigError, match="another training is running in it"):
            check_lock(tmp_path / "out")


def test_a_run_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock(tmp_path / "runs/out"):
        assert (tmp_path / "runs/out" / LOCK).is_file()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    check_lock(tmp_path / "runs/out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_removed_while_it_was_opened_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last owner removes it between another's opening and locking: the new one counts."""
    tried: list[int] = []
    take = locks._try_lock

    def remove_first(folder: Path, file: object) -> None:
        if not tried:
            (tmp_path / LOCK).unlink()
        tried.append(1)
        take(folder, file)  # type: ignore[arg-type]

    monkeypatch.setattr(locks, "_try_lock", remove_first)
    with lock(tmp_path):
        assert len(tried) == 2
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
