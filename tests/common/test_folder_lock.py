"""A folder has one run of its kind at a time, and no lock outlives its owner."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from siamese_diffusion.common.errors import MessageError
from siamese_diffusion.common.folder_lock import FolderLock
from support.folder_locks import hold, looked_at

NAME = ".test.lock"


class HeldError(MessageError):
    """What these locks raise."""


def lock(folder: Path) -> FolderLock:
    return FolderLock(folder, NAME, "--out", "test", HeldError)


def test_another_process_is_refused(tmp_path: Path) -> None:
    with hold(tmp_path, NAME) as holder:
        content = (tmp_path / NAME).read_bytes()
        for refused in (lock(tmp_path).hold().__enter__, lock(tmp_path).check):
            with pytest.raises(HeldError) as error:
                refused()
            assert f"--out {tmp_path}: another test is running in it" in str(error.value)
            assert f"process {holder.pid} on" in str(error.value)
            assert str(error.value).endswith("or choose another --out.")
        assert (tmp_path / NAME).read_bytes() == content
    lock(tmp_path).check()


def test_two_names_are_two_locks(tmp_path: Path) -> None:
    with lock(tmp_path).hold():
        assert looked_at(tmp_path, NAME) == "held"
        assert looked_at(tmp_path, ".other.lock") == "free"
    assert looked_at(tmp_path, NAME) == "free"


@pytest.mark.parametrize("fork", ["", "fork"])
def test_a_killed_owner_leaves_no_lock_even_to_its_children(fork: str, tmp_path: Path) -> None:
    with hold(tmp_path, NAME, fork) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / NAME).is_file()
        lock(tmp_path).check()
        with lock(tmp_path).hold():
            assert str(os.getpid()) in (tmp_path / NAME).read_text()
        assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\0", b"[" * 900, b'{"process": null}'])
def test_whatever_a_stale_file_holds(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    with lock(tmp_path).hold():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{", "[" * 900, '{"process": 1e999, "host": 1}', "\xff"])
def test_a_damaged_file_of_a_running_one_is_still_a_message(content: str, tmp_path: Path) -> None:
    with hold(tmp_path, NAME):
        (tmp_path / NAME).write_text(content, "latin-1")
        with pytest.raises(HeldError, match="another test is running in it"):
            lock(tmp_path).check()


def test_a_run_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock(tmp_path / "runs/out").hold():
        assert (tmp_path / "runs/out" / NAME).is_file()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    lock(tmp_path / "runs/out").check()
    assert list(tmp_path.iterdir()) == []


def test_a_file_removed_while_it_was_opened_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last owner removes it between another's opening and locking: the new one counts."""
    tried: list[int] = []
    take = FolderLock._try_lock

    def remove_first(self: FolderLock, file: object) -> None:
        if not tried:
            (tmp_path / NAME).unlink()
        tried.append(1)
        take(self, file)  # type: ignore[arg-type]

    monkeypatch.setattr(FolderLock, "_try_lock", remove_first)
    with lock(tmp_path).hold():
        assert len(tried) == 2
        assert str(os.getpid()) in (tmp_path / NAME).read_text()
