"""Where sd-scripts is on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ...errors import ConfigError

VARIABLE = "SD_SCRIPTS_DIR"
TESTED = "v0.10.1"  # the version that this is written against
# `library` is a common name: kohya's has had all of these for years.
MARKERS = ("train_util.py", "config_util.py", "model_util.py", "custom_train_functions.py")
ADVICE = (
    f"Get it with `git clone --branch {TESTED} https://github.com/kohya-ss/sd-scripts`, and give "
    f"its folder with --sd_scripts or {VARIABLE}."
)


def find_sd_scripts(host: str | None, folder: Path | None) -> Path | None:
    """Folder of sd-scripts, or None where the standalone host is wanted or nothing was found.

    host, folder: --host and --sd_scripts. Raises ConfigError where sd-scripts is asked for, and
    the folder is not it or there is none.
    """
    if host == "standalone":
        return None
    if folder is not None:
        return _checked(folder, "--sd_scripts")
    if os.environ.get(VARIABLE):
        return _checked(Path(os.environ[VARIABLE]), VARIABLE)
    for place in _installed_places():
        if _is_library(place):
            return place.parent
    if host == "sd-scripts":
        raise ConfigError(f"--host sd-scripts: it was not found. {ADVICE}")
    return None


def _installed_places() -> list[Path]:
    """Folders of the package that `import library` would find.

    importlib.util.find_spec would also answer with one that this process has loaded by its path.
    """
    for finder in sys.meta_path:
        spec = finder.find_spec("library", None)
        if spec is not None:
            return [Path(place) for place in spec.submodule_search_locations or ()]
    return []


def _checked(folder: Path, source: str) -> Path:
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"{source}: {folder} is not a folder. {ADVICE}")
    if not _is_library(folder / "library"):
        raise ConfigError(
            f"{source}: {folder} is not a checkout of sd-scripts; expected "
            f"{', '.join(f'library/{name}' for name in MARKERS)} in it. {ADVICE}"
        )
    return folder


def _is_library(folder: Path) -> bool:
    return all((folder / name).is_file() for name in MARKERS)
