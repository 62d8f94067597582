"""Pages that can be found, and links that lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import siamese_diffusion
from support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")
PAGES = sorted(
    path for pattern in ("*.md", "docs/*.md", "web/docs/*.md", "tests/data/*.md", "tools/**/*.md")
    for path in ROOT.glob(pattern)
)  # fmt: skip


def linked(page: Path) -> set[Path]:
    """The files of the repository that a page links to or shows."""
    return {(page.parent / link).resolve() for link in LINK.findall(page.read_text("utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    for target in linked(page):
        assert target.exists(), target
        assert target.is_relative_to(ROOT), target


def test_the_index_of_the_docs_is_complete() -> None:
    index = ROOT / "docs" / "README.md"
    pages = {*ROOT.glob("docs/*.md"), *ROOT.glob("web/docs/*.md"), *ROOT.glob("*.md")} - {index}
    assert pages - linked(index) == set()
    pictures = {*ROOT.glob("docs/*.jpg")}
    assert pictures - {target for page in PAGES for target in linked(page)} == set()


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert siamese_diffusion.__version__ == project["version"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == project["version"]  # type: ignore[index]


def test_every_released_version_is_in_the_changelog() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions[1:])
