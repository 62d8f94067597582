"""Folders, lists and TOML files that cannot be read: each is a line of the one report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from siamese_diffusion.training.command_line import read_config_file
from siamese_diffusion.training.data.listing import read_folders
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.optimizers import make_optimizer
from siamese_diffusion.training.run import metrics
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.run.states import DamagedStateError, read_state
from support.paths import TRAIN_SCRIPT
from support.processes import heed_permissions, run
from support.small_datasets import lesion, load, photo, problems, save, two_folders, write_list


def nested(folder: Path) -> Path:
    for where in ("", "a/", "b/"):
        save(folder / f"images/{where}0.png", photo())
        save(folder / f"masks/{where}0.png", lesion())
        (folder / f"images/{where}0.txt").write_text("a polyp")
    return folder


def hidden_broken_link(folder: Path) -> str:
    (folder / "images/.x.png").symlink_to("nowhere")
    return ""


def broken_link(folder: Path) -> str:
    for role in ("images", "masks"):
        (folder / role / "x.png").symlink_to("nowhere")
    return "images/x.png: no such file"


def looping_link(folder: Path) -> str:
    for role in ("images", "masks"):
        (folder / role / "x.png").symlink_to("x.png")
    return "images/x.png: cannot be read"


def pipe(folder: Path) -> str:
    for role in ("images", "masks"):
        os.mkfifo(folder / role / "x.png")
    return "not a file"


def caption_folder(folder: Path) -> str:
    (folder / "images/0.txt").unlink()
    (folder / "images/0.txt").mkdir()
    return "0.txt: a folder or a device; expected a caption"


def caption_pipe(folder: Path) -> str:
    (folder / "images/0.txt").unlink()
    os.mkfifo(folder / "images/0.txt")
    return "0.txt: a folder or a device; expected a caption"


def caption_link(folder: Path) -> str:
    (folder / "images/0.txt").unlink()
    (folder / "images/0.txt").symlink_to("nowhere")
    return "0.txt: cannot be read (No such file"


def caption_bytes(folder: Path) -> str:
    (folder / "images/0.txt").write_bytes(b"caf\xe9")
    return "0.txt: not UTF-8"


def longest_name(folder: Path) -> str:
    """There is no room for the name of a caption."""
    for role in ("images", "masks"):
        (folder / role / "0.png").rename(folder / role / ("n" * 251 + ".png"))
    return ""


@pytest.mark.parametrize(
    "damage",
    [
        hidden_broken_link, broken_link, looping_link, pipe, caption_folder, caption_pipe,
        caption_link, caption_bytes, longest_name,
    ],
)  # fmt: skip
def test_what_is_found_in_folders(damage: Callable[[Path], str], tmp_path: Path) -> None:
    nested(tmp_path)
    if expected := damage(tmp_path):
        assert expected in problems(tmp_path, **two_folders(tmp_path))
    else:
        assert len(load(tmp_path, **two_folders(tmp_path)).pairs) == 3


@pytest.mark.slow
def test_what_may_not_be_read(tmp_path: Path) -> None:
    """In a process of its own, which may not read everywhere even where root runs the tests."""
    nested(tmp_path)
    places = [tmp_path / name for name in ("images/0.png", "images/b/0.txt", "masks/a")]
    for place in places:
        place.chmod(0)
    flags = [f"--{name}={path}" for name, path in two_folders(tmp_path).items()]
    (base := tmp_path / "base.ckpt").touch()  # read after the pairs
    flags += [f"--pretrained_model_name_or_path={base}", f"--output_dir={tmp_path / 'out'}"]
    found = run([sys.executable, TRAIN_SCRIPT, *flags], before=heed_permissions_of_readers)
    for place in places:
        place.chmod(0o700)
    assert found.returncode == 2, found.stderr
    for place in places:
        assert f"{place}: cannot be read (Permission denied)" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


def heed_permissions_of_readers() -> None:
    """As `heed_permissions`, for reading and searching folders too."""
    import ctypes

    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 2, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH
    heed_permissions()


def test_subfolders_keep_their_order(tmp_path: Path) -> None:
    nested(tmp_path)
    listing = read_folders(tmp_path / "images", tmp_path / "masks")
    names = [pair.image.relative_to(tmp_path / "images").as_posix() for pair in listing.pairs]
    assert names == ["0.png", "a/0.png", "b/0.png"]


# Nesting and numbers

DEEP = 100_000
TOML = {
    "deep arrays": "x = " + "[" * DEEP + "]" * DEEP,
    "deep tables": "x = " + "{a = " * DEEP + "1" + "}" * DEEP,
    "a long number": "x = " + "9" * 5000,
    "half an array": "x = " + "[" * DEEP,
    "no TOML": "x",
    "a null byte": "x = 1\0",
    "a bad date": "x = 2023-13-45",
}


@pytest.mark.parametrize("content", TOML.values(), ids=TOML)
def test_hostile_toml(content: str, tmp_path: Path) -> None:
    (path := tmp_path / "x.toml").write_text(content)
    with pytest.raises(ConfigError, match=r"^--config_file .*x\.toml: ") as error:
        read_config_file(path)
    assert len(str(error.value)) < 1000
    report = problems(tmp_path, dataset_config=path)
    assert str(path) in report and "not TOML" in report


CODE = {
    "sd-scripts": 'sd_scripts = "stranger"',
    "an optimizer": 'optimizer_type = "stranger.Optimizer"',
    "of Python": 'optimizer_type = "antigravity.Optimizer"',
    "a schedule": 'lr_scheduler_type = "stranger.Schedule"',
}


@pytest.mark.parametrize("content", CODE.values(), ids=CODE)
def test_a_configuration_says_no_code(content: str, tmp_path: Path) -> None:
    """It may come from a stranger, and beside it other files of theirs."""
    (path := tmp_path / "x.toml").write_text(content)
    with pytest.raises(ConfigError, match="give it on the command line"):
        read_config_file(path)


@pytest.mark.parametrize("name", ["AdamW", "torch.optim.RAdam", "transformers.Adafactor"])
def test_a_configuration_may_name_what_is_installed(name: str, tmp_path: Path) -> None:
    (path := tmp_path / "x.toml").write_text(f'optimizer_type = "{name}"')
    assert read_config_file(path)[0] == {"optimizer_type": name}


@pytest.mark.parametrize(
    "name", ["os.system", "torch.load", "builtins.dict", "torch.optim.Optimizer.x"]
)
def test_what_is_no_optimizer_is_not_called(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^--optimizer_type {name}: "):
        make_optimizer(name, (), [], 1e-4)


def test_a_folder_for_toml(tmp_path: Path) -> None:
    (path := tmp_path / "x.toml").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        read_config_file(path)


JSON = {
    "deep lists": "[" * DEEP + "]" * DEEP,
    "deep objects": '{"step":' * DEEP + "1" + "}" * DEEP,
    "a long number": '{"step": ' + "9" * 5000 + "}",
    "infinite": '{"step": 1e999, "record": {}}',
    "not a number": '{"step": NaN, "record": {}}',
    "bytes": "\udcff",
}


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_hostile_json(content: str, tmp_path: Path) -> None:
    line = content.encode(errors="surrogateescape")
    (folder := RunFolder(tmp_path, "siamese")).config.write_bytes(line)
    with pytest.raises(ConfigError, match=r"config\.json: damaged"):
        folder.check()
    (tmp_path / "state.json").write_bytes(line)
    with pytest.raises(DamagedStateError, match=r"state\.json"):
        read_state(tmp_path)
    folder.metrics.write_bytes(line + b"\n")
    with pytest.raises(ConfigError, match="line 1: damaged"):
        metrics.lines_until(folder.metrics, 3)
    write_list(tmp_path / "data", [(32, 32)])
    with (tmp_path / "data/prompt.jsonl").open("ab") as file:
        file.write(b"\n" + line)
    found = problems(tmp_path / "data")
    assert "line 2: " in found or "not UTF-8" in found


@pytest.mark.parametrize("name", ["n" * 300, "n" * 250, "ü" * 120])
def test_output_names_that_are_too_long(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--output_name .* bytes.*at most"):
        RunFolder(tmp_path, name).check()
