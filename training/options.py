"""How a flag is declared, and the one check of its value."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field
from typing import Any

from ..common.text import shown
from .errors import ConfigError

# The groups of --help, in order.
GROUPS = ("model", "output", "host", "data", "recipe", "training", "speed")
LONGEST_NAME = 200  # bytes; file systems take 255, and names get a step and an extension


@dataclass(frozen=True)
class Range:
    """The numbers that a flag takes, from `low` to `high`; `below`: `high` itself is left out."""

    low: float
    high: float
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.below and value == self.high)

    def __str__(self) -> str:
        return f"at least {self.low} and {'below' if self.below else 'at most'} {self.high}"


MOST_STEPS = 99_999_999  # file names have 8 digits for it, as sd-scripts'
INTERVAL = Range(0, MOST_STEPS)  # in steps; 0: never
COUNT = Range(1, MOST_STEPS)
SHARE = Range(0, 1)
FACTOR = Range(1e-6, 1e6)


def option(group: str, text: str, default: Any = MISSING, **extra: Any) -> Any:
    """A flag: its help group, help text and default.

    extra: `choices`, a tuple of texts; `range`, a Range, which every number needs; `is_name=True`
    for a text that becomes part of file names.
    """
    metadata = {"group": group, "help": text, **extra}
    return (
        field(metadata=metadata)
        if default is MISSING
        else field(default=default, metadata=metadata)
    )


def check_option(item: Field, value: Any) -> None:
    """Raise ConfigError for a value that the flag's declaration does not allow; None is unset."""
    if value is None:
        return
    limits, choices = item.metadata.get("range"), item.metadata.get("choices")
    problem = ""
    if limits is not None and value not in limits:
        problem = f"{shown(value)}; it must be {limits}"
    elif choices and value not in choices:
        problem = f"{shown(value)}; it must be one of {', '.join(choices)}"
    elif item.metadata.get("is_name") and (expected := _wrong_name(value)):
        problem = f"{shown(value)}; {expected}"
    if problem:
        raise ConfigError(f"--{item.name} is {problem}.")


def _wrong_name(name: str) -> str:
    """What is wrong with a part of file names, or nothing."""
    if not name.strip() or name in (".", ".."):
        return "it must be a name"
    if any(letter in '/\\:*?"<>|' or not letter.isprintable() for letter in name):
        return 'it must be a name without / \\ : * ? " < > | and control characters'
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        return f"it must not be longer than {LONGEST_NAME} bytes"
    return ""
