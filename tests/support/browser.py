"""The page in a real browser, moved by the scripts of `page/`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.needs import Need
from support.paths import ROOT
from support.processes import run

SCRIPTS = Path(__file__).parent / "page"
MODULES = ROOT / ".venv" / "browser"

InThePage = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def in_the_page() -> InThePage:
    """in_the_page(url, script, *arguments) -> what that script of `page/` found out."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        Need.CHROMIUM.skip()
    if shutil.which("node") is None:
        Need.NODE.skip()
    if not (MODULES / "node_modules" / "playwright-core").is_dir():
        Need.BROWSER_DRIVER.skip()

    def run_script(url: str, script: str, *arguments: object) -> dict[str, Any]:
        done = run(["node", SCRIPTS / script, MODULES, chromium, url, *arguments])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run_script
