"""What the repository promises to those who install it, and to those who know the publication."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from siamese_diffusion.tools.comfy_host import ROOT
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.hosts.optimizers import OPTIMIZERS
from support.processes import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# ComfyUI brings these; another version of them breaks it.
OF_THE_HOST = {"torch", "torchvision", "torchaudio", "numpy"}


def test_comfyui_manager_never_replaces_what_comfyui_brings() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    required = [line for line in lines if line.strip() and not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in (*required, *project["dependencies"]):
        name = re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0].lower()
        assert name not in OF_THE_HOST, requirement


def test_the_registry_can_read_the_project() -> None:
    """The form that its specification asks for."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project, comfy = content["project"], content["tool"]["comfy"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert "Apache License" in (ROOT / project["license"]["file"]).read_text("utf-8")
    assert project["urls"]["Repository"].startswith("https://")
    assert {"PublisherId", "DisplayName"} <= comfy.keys()
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"git clone {project['urls']['Repository']}" in readme


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ordinary installation, from a copy: building writes into its source."""
    folder = tmp_path_factory.mktemp("installation")
    copy = folder / "checkout"
    # The demos' output has links back to the checkout.
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "*_output")
    shutil.copytree(ROOT, copy, ignore=left_out)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    done = run([*pip, "--no-build-isolation", "--target", folder / "site", copy])
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.slow
def test_an_installation_has_every_room_with_its_files_and_nothing_of_the_development(
    installed: Path,
) -> None:
    rooms = ("common", "models", "nodes", "training", "synthesis", "evaluation")
    for room in rooms:
        known = {path.relative_to(ROOT) for path in (ROOT / room).rglob("*") if path.is_file()}
        found = {
            path.relative_to(installed / "siamese_diffusion")
            for path in (installed / "siamese_diffusion" / room).rglob("*")
            if path.is_file()
        }
        assert {path for path in known if "__pycache__" not in path.parts} <= found
    folders = {path.name for path in (installed / "siamese_diffusion").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(rooms)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "merge", "evaluate", "prepare", "synthesize"])
def test_an_installation_has_its_commands(installed: Path, command: str, tmp_path: Path) -> None:
    script = installed / "bin" / f"siamese-{command}"
    env = {"PYTHONPATH": str(installed)}
    helped = run([script, "--help"], cwd=tmp_path, env=env)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith("usage: ")
    refused = run([script, "--no-such-flag"], cwd=tmp_path, env=env)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    without_packages = run([sys.executable, "-S", script, "--help"], cwd=tmp_path, env=env)
    assert without_packages.returncode != 0
    [line] = without_packages.stderr.splitlines()
    assert re.match(r"error: the package (torch|numpy|psutil) is missing\. .*pip install", line)


@pytest.mark.slow
def test_a_commands_exit_code_is_what_its_main_returns(installed: Path, tmp_path: Path) -> None:
    arguments = [
        tmp_path / "none.safetensors",
        tmp_path / "bundle",
        tmp_path / "merged.safetensors",
    ]
    env = {"PYTHONPATH": str(installed)}
    found = run([installed / "bin" / "siamese-merge", *arguments], cwd=tmp_path, env=env)
    assert found.returncode == 2
    assert "no such file" in found.stderr


def test_the_extra_has_every_optimizer_that_can_be_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    offered = {
        re.split(r"[<>=]", requirement)[0]
        for extra in ("train", "optimizers")
        for requirement in extras[extra]
    }
    assert {package for _, _, package, _ in OPTIMIZERS.values()} <= offered


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recipe", "published"),
        ("size", (384, 384)),
        ("learning_rate", 1e-5),
        ("max_train_steps", 3000),
        ("seed", 42),
        ("train_batch_size", 6),  # on each of 8 processes: 48
        ("gradient_accumulation_steps", 1),
        ("optimizer_type", "AdamW"),
        ("optimizer_args", ()),
        ("lr_scheduler", "constant"),
        ("lr_warmup_steps", 0),
        ("caption_dropout_rate", 0.05),
        ("max_grad_norm", 0),
        ("ema_decay", 0),
        ("mixed_precision", "no"),
        ("sample_steps", 50),
        ("sample_cfg", 9),
    ],
)
def test_defaults_are_the_published_settings(name: str, value: object) -> None:
    config = TrainConfig(pretrained_model_name_or_path=Path("base"), output_dir=Path("out"))
    assert getattr(config, name) == value
