"""The page in a real browser, moved by the scripts of `page/`."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from support.needs import Need
from support.paths import ROOT
from support.processes import run

SCRIPTS = Path(__file__).parent / "page"
MODULES = ROOT / ".venv" / "browser"
RELEASES = ROOT / ".venv" / "pages"  # of the page, beside the host's own; see tools/setup_env.py

InThePage = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def supported_page() -> None:
    """For what older pages lack: workflows that open by their address, info buttons, subgraphs."""
    major, minor, *_ = map(int, version("comfyui-frontend-package").split("."))
    if (major, minor) < (1, 28):
        Need.SUPPORTED_PAGE.skip()


@pytest.fixture(scope="session")
def in_the_page() -> InThePage:
    """in_the_page(url, script, *arguments) -> what that script of `page/` found out.

    With `release`, in that release of the page in place of the host's own.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        Need.CHROMIUM.skip()
    if shutil.which("node") is None:
        Need.NODE.skip()
    if not (MODULES / "node_modules" / "playwright-core").is_dir():
        Need.BROWSER_DRIVER.skip()

    def run_script(
        url: str, script: str, *arguments: object, release: str | None = None
    ) -> dict[str, Any]:
        files = {"PAGE_RELEASE": str(release_files(release))} if release else {}
        command = ["node", SCRIPTS / script, MODULES, chromium, url, *arguments]
        done = run(command, env=files)
        # On a busy machine the page has been seen to miss an event and wait for it for good. What
        # is wrong with a workflow or a node is wrong again.
        if done.returncode and "TimeoutError" in done.stderr:
            warnings.warn(f"{script} is tried once more: {done.stderr}", stacklevel=2)
            done = run(command, env=files)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run_script


def release_files(release: str) -> Path:
    """The folder of its index.html; without it the test skips."""
    files = RELEASES / release / "comfyui_frontend_package" / "static"
    if not files.is_dir():
        Need.PAGES.skip()
    return files
