"""Set up `.venv/newest`: what training needs, in the newest version of everything.

Run by `make newest`. Each run upgrades what has a newer release; about 5 GB on a first one.
"""

from __future__ import annotations

import subprocess
import sys

import tomllib
from setup_env import ROOT, VENV, say

FOLDER = VENV / "newest"
PYTHON = FOLDER / "bin" / "python"
# What a user of the extra sees first when a release breaks something.
SHOWN = ("torch", "diffusers", "transformers", "accelerate", "peft")


def main() -> int:
    """Exit code 1 when a step fails."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    # torchvision: its release decides which torch can be had with it.
    packages = [*extras["train"], "torchvision", "tensorboard", "wandb", "pytest", "pytest-xdist"]
    say("the newest release of everything")
    try:
        if not PYTHON.exists():
            subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
        pip = [PYTHON, "-m", "pip", "--disable-pip-version-check"]
        upgrade = ["install", "--quiet", "--upgrade", "--upgrade-strategy", "eager"]
        subprocess.run([*pip, *upgrade, *packages], check=True)
        show = (
            "import sys, importlib.metadata as m; print([(p, m.version(p)) for p in sys.argv[1:]])"
        )
        subprocess.run([PYTHON, "-c", show, *SHOWN], check=True)
    except subprocess.CalledProcessError as error:
        print(f"setup: failed with exit code {error.returncode}: {error.cmd}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
