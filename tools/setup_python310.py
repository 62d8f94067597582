"""Set up `.venv/python310`: what the training tests need, on the oldest Python that is claimed.

Run by `make quick-310` after `make setup`, whose NVIDIA libraries, gigabytes that are the same for
every Python, it links instead of installing them again.
"""

from __future__ import annotations

import subprocess
import sys

import tomllib
from setup_env import ROOT, VENV, say

FOLDER = VENV / "python310"
PYTHON = FOLDER / "bin" / "python"
STAMP = FOLDER / "setup.stamp"
PINNED = (
    "torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "pytest",
    "pytest-xdist",
)  # fmt: skip
TRACKERS = ("tensorboard", "wandb")


def main(arguments: list[str]) -> int:
    """Arguments: a Python 3.10. Exit code 1 when there is none, or when a step fails."""
    if not arguments:
        print("Python 3.10 was not found: make quick-310 PYTHON310=...", file=sys.stderr)
        return 1
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    if STAMP.is_file() and STAMP.read_text("utf-8") == project:
        return 0
    extras = tomllib.loads(project)["project"]["optional-dependencies"]
    pins = [pin for pin in extras["dev"] if pin.partition("==")[0] in (*PINNED, *TRACKERS)]
    say("Python 3.10 (about 2 GB)")
    try:
        subprocess.run([arguments[0], "-m", "venv", "--clear", FOLDER], check=True)
        link_nvidia_libraries()
        pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *extras["train"], *pins], check=True)
    except subprocess.CalledProcessError as error:
        print(f"setup: failed with exit code {error.returncode}: {error.cmd}", file=sys.stderr)
        return 1
    STAMP.write_text(project, "utf-8")
    return 0


def link_nvidia_libraries() -> None:
    """Their files, and what tells pip that they are installed."""
    (ours,) = (VENV / "lib").glob("python3.*/site-packages")
    (theirs,) = (FOLDER / "lib").glob("python3.*/site-packages")
    for path in (ours / "nvidia", *ours.glob("nvidia_*.dist-info")):
        (theirs / path.name).symlink_to(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
