"""What ComfyUI-Manager installs: the files of the archive that the registry is given."""

from __future__ import annotations

from pathlib import Path

from support.paths import ROOT
from support.processes import run


def archive_files() -> list[Path]:
    """Relative to the checkout: files known to git, without those that .comfyignore leaves out."""
    everything, left_out = (
        _git("ls-files", "--cached", *flags)
        for flags in ((), ("--ignored", "--exclude-from=.comfyignore"))
    )
    return sorted(path for path in everything - left_out if (ROOT / path).is_file())


def _git(*arguments: str) -> set[Path]:
    done = run(["git", *arguments], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {Path(line) for line in done.stdout.splitlines()}
