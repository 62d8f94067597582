"""The page in a real browser, moved by the scripts of `page/`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT

SCRIPTS = Path(__file__).parent / "page"
MODULES = ROOT / ".venv" / "browser"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

NEEDS_BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(
        shutil.which("node") is None, reason="needs Node.js: apt-get install nodejs"
    ),
    pytest.mark.skipif(
        not (MODULES / "node_modules" / "playwright-core").is_dir(),
        reason="needs playwright-core: run `make setup`",
    ),
]


def in_the_page(url: str, script: str, *arguments: object) -> dict[str, Any]:
    """What a script of `page/` found out at that address."""
    command = ["node", SCRIPTS / script, MODULES, CHROMIUM, url, *arguments]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
