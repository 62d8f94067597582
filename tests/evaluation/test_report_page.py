"""The page of an evaluation in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.browser import InThePage

pytest_plugins = ["support.browser", "support.evaluation_run"]

SECTIONS = ["summary", "pictures", "downstream", "alignment", "fidelity", "memorisation", "method"]


def test_the_page_is_whole_in_a_browser(
    evaluation_out: Path, evaluation_report: dict[str, Any], in_the_page: InThePage
) -> None:
    found = in_the_page((evaluation_out / "report.html").as_uri(), "report.mjs")
    assert found["problems"] == []
    assert found["fetched"] == [(evaluation_out / "report.html").as_uri()[:80]]
    assert [section["id"] for section in found["sections"]] == SECTIONS
    assert all(section["height"] > 80 for section in found["sections"])
    smoke = {section["id"]: section["smoke"] for section in found["sections"]}
    assert all(smoke[name] for name in SECTIONS if name not in ("pictures", "method"))
    assert found["title"].startswith("Smoke run")
    # 3 + 1 + 2 + 2 plots; 8 pictures of each of two sets; 8 closest pairs for each of two spaces.
    assert found["pictures"] == 8 + 16 + 32
    assert found["undecoded"] == []
    assert found["unnamed"] == 0
    assert found["overflow"] <= 0
    dice = evaluation_report["alignment"][1]["dice"]["mean"]
    assert f"{dice:.3f}" in found["text"]
