"""Scripts that are run by their path, and the processes that they spawn."""

from __future__ import annotations

import sys
from pathlib import Path

from support.paths import ROOT
from support.processes import run

SCRIPT = """
import multiprocessing, sys
sys.path.insert(0, {common!r})
import bootstrap
bootstrap.enter_package(__file__)
from siamese_diffusion.common.text import one_line
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=one_line, args=("a",))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


def test_a_spawned_process_has_the_package(tmp_path: Path) -> None:
    """As the workers of a DataLoader are on Windows: their `sys.path` lacks the script's folder."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(common=str(ROOT / "common")), encoding="utf-8")
    result = run([sys.executable, script])
    assert (result.returncode, result.stderr) == (0, "")
