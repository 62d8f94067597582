"""What the repository promises to those who install it, and to those who know the publication."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomllib
from siamese_diffusion.tools.comfy_host import ROOT
from siamese_diffusion.training.config import TrainConfig

# ComfyUI brings these; another version of them breaks it.
OF_THE_HOST = {"torch", "torchvision", "torchaudio", "numpy"}


def test_comfyui_manager_never_replaces_what_comfyui_brings() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    required = [line for line in lines if line.strip() and not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in (*required, *project["dependencies"]):
        name = re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0].lower()
        assert name not in OF_THE_HOST, requirement


def test_an_installed_package_has_every_room_but_those_for_developers() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for_developers = {"benchmarks", "tests", "tools"}
    rooms = {
        ".".join(("siamese_diffusion", *path.parent.relative_to(ROOT).parts))
        for folder in ROOT.iterdir()
        if folder.name not in for_developers and not folder.name.startswith(".")
        for path in folder.rglob("__init__.py")
    }
    assert set(content["tool"]["setuptools"]["packages"]) == rooms | {"siamese_diffusion"}


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
