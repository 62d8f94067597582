"""Whether a message says what was found, and what to do or what was expected instead."""

from __future__ import annotations

import re

# At the beginning of a sentence or of a part of it, as a demand.
VERBS = (
    "check|choose|connect|convert|copy|correct|cut|delete|export|give|leave|load|lower|make|move|"
    "multiply|paint|put|remove|rename|save|scale|set|swap|train|update|use|write"
)
REMEDY = re.compile(
    rf"^\W*(?:(?:or|and|then|otherwise) )?(?:{VERBS})\b|\bexpect(?:ed|s)\b|\bmust (?:not )?be\b",
    re.IGNORECASE,
)
PARTS = re.compile(r"[.;] | \(|, (?=or |and )")
WORD = re.compile(r"[a-z]{2,}", re.IGNORECASE)
# Names and values in a message, which may hold any words.
QUOTED = re.compile(r"'[^']*'|\S*/\S*?(?=[.,;:)]*(?:\s|$))")
FOUND = re.compile(r", found \w|\w = \S")  # beside what was expected


def missing_parts(message: str, *names: str) -> list[str]:
    """Which of finding and remedy a message lacks.

    names: of the files in question, which may hold any words and do not count.
    """
    for name in sorted(names, key=len, reverse=True):
        message = message.replace(name, "")
    parts = PARTS.split(message)
    found = [part for part in parts if not REMEDY.search(part) and WORD.search(part)]
    there = {
        "finding": found or FOUND.search(message),
        "remedy": [part for part in parts if REMEDY.search(part)],
    }
    return [name for name, value in there.items() if not value]
