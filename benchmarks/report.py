"""Results as JSON, and the tables that the documentation quotes from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
RELIABILITY = RESULTS / "reliability"  # of docs/reliability.md
DOCS = ROOT / "docs/benchmarks.md"
RELIABILITY_DOCS = ROOT / "docs/reliability.md"
SCALE_DOCS = ROOT / "docs/scale.md"  # whose arithmetic begins with the items
BEGIN, END = "<!-- begin results -->", "<!-- end results -->"


@dataclass(frozen=True)
class Row:
    """One comparison. ratio: ours / published, or None; target: what it should be, "" for none."""

    what: str
    published: str
    ours: str
    ratio: float | None = None
    target: str = ""

    def cells(self) -> list[str]:
        ratio = "" if self.ratio is None else f"**{self.ratio:.2f}**"
        return [self.what, self.published, self.ours, ratio, self.target]


def compare(
    what: str,
    published: float,
    ours: float,
    unit: str,
    target: str = "",
    ratio: float | None = None,
) -> Row:
    """A row of two numbers; `ratio` where it is not simply ours / published."""

    def text(value: float) -> str:
        return f"{value:.3g} {unit}".strip()

    return Row(what, text(published), text(ours), ratio or ours / published, target)


@dataclass(frozen=True)
class Result:
    """A benchmark's outcome.

    raw: every number that the rows come from. baseline: what ours is compared with. columns: the
    heads of a table that compares otherwise; its rows are lists of cells.
    """

    name: str
    title: str
    machine: dict[str, Any]
    rows: Sequence[Row | Sequence[str]]
    raw: dict[str, Any] = field(default_factory=dict)
    baseline: str = "published"
    columns: Sequence[str] = ()

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path


def read_results(folder: Path) -> list[Result]:
    """All results of a folder, by name."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    return [
        Result(**{**values, "rows": [_read_row(row) for row in values["rows"]]}) for values in found
    ]


def _read_row(saved: Any) -> Row | Sequence[str]:
    return Row(**saved) if isinstance(saved, dict) else saved


def table(result: Result) -> str:
    """A Markdown section: title, machine, table."""
    machine = ", ".join(f"{k} {v}" for k, v in result.machine.items() if v is not None)
    compared = ("", result.baseline, "ours", f"ours / {result.baseline}", "target")
    heads = result.columns or compared
    lines = [f"### {result.title}", "", _line(heads), _line(["---"] * len(heads))]
    lines += [_line(row.cells() if isinstance(row, Row) else row) for row in result.rows]
    return "\n".join([*lines, "", f"Measured with {machine}.", ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def tables(results: Iterable[Result]) -> str:
    return "\n".join(table(result) for result in results)


def quote_in_docs(results: Iterable[Result], docs: Path = DOCS) -> None:
    """Replace what stands between the markers. Raises ValueError where they are missing."""
    text = docs.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{docs} lacks the markers {BEGIN} and {END}.")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    docs.write_text(f"{before}{BEGIN}\n{tables(results)}{END}{after}", encoding="utf-8")


def quoted_in_docs(docs: Path = DOCS) -> str:
    """What stands between the markers."""
    text = docs.read_text(encoding="utf-8")
    return text.split(BEGIN, 1)[1].split(END, 1)[0].strip()
