"""What the figures say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arms import BASELINE
from ..downstream import ALL
from ..memorisation import CLOSE

SCARCE = 0.05  # of a set's images where a fifth of the test images are
MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """Rounded, without the sign of a zero."""
    if value is None:
        return "none"
    return f"{round(value, digits) + 0:.{digits}f}".replace("-", MINUS)


def signed(value: float) -> str:
    """A difference, with its sign."""
    return f"{round(value, 3) + 0:+.3f}".replace("-", MINUS).replace("+0.000", "0.000")


def interval(found: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    if found["low"] is None:
        return f"{signed(found['mean'])} (no interval: {found['n']} are too few)"
    return f"{signed(found['mean'])} ({signed(found['low'])} to {signed(found['high'])})"


def percent(found: Mapping[str, Any]) -> str:
    """A share with its interval."""
    mean, low, high = (f"{100 * found[name]:.1f} %" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def trusted(figures: Mapping[str, Any]) -> Mapping[str, Any]:
    """The difference whose interval draws whole groups, where the test pairs name groups.

    figures: of one arm, segmenter and metric.
    """
    return figures["difference_by_group"] or figures["difference"]


def verdict(found: Mapping[str, Any]) -> str:
    """A gain or loss only where the whole interval is on one side of 0."""
    if found["low"] is None:
        return "too few to tell"
    if found["low"] > 0:
        return "a gain"
    if found["high"] < 0:
        return "a loss"
    return "no difference shown"


def primary(table: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The arm that the summary quotes, fixed in advance: as many synthetic pairs as real ones, or
    else the lowest ratio."""
    arms = [row for row in table if row["synthetic_set"] == name and row["ratio"] is not None]
    return min(arms, key=lambda row: (row["ratio"] != 1, row["ratio"]), default=None)


def summary(content: Mapping[str, Any], name: str) -> list[str]:
    """What was found for one synthetic set, one sentence a measure."""
    table = content["downstream"]["table"]
    sentences = [_downstream(table, name)]
    if content["filter"]:
        sentences.append(_downstream(table, f"{name} (filtered)"))
    if scarce := _scarce(content["contrast"], name):
        sentences.append(scarce)
    sentences += [_alignment(content["alignment"], name), _fidelity(content["fidelity"], name)]
    sentences += [_memorisation(row) for row in content["memorisation"] if row["set"] == name]
    return sentences


def _downstream(table: list[dict[str, Any]], name: str) -> str:
    row = primary(table, name)
    if row is None:
        return f"Training: no arm with real pairs and {name} could be made; see the list below."
    dice = row["segmenters"][ALL]["dice"]
    found, drawn = trusted(dice), "whole groups" if dice["difference_by_group"] else "images"
    return (
        f"Training: {row['arm']} against {BASELINE} changed the Dice on real test images by "
        f"{interval(found)}, drawing {drawn}: {verdict(found)}."
    )


def _scarce(contrast: Mapping[str, Any], name: str) -> str | None:
    """A warning where the set has next to no images like a fifth of the test images."""
    if "left_out" in contrast:
        return None
    shares = {row["set"]: row["shares"] for row in contrast["sets"]}
    if shares[name] is None:
        return None
    share, fifth = min((share, fifth) for fifth, share in enumerate(shares[name]))
    if share >= SCARCE:
        return None
    low, high = contrast["ranges"][fifth]
    real = shares["real_train"]
    also = f", {100 * real[fifth]:.0f} % of the real training images" if real else ""
    return (
        f"Contrast: {100 * share:.0f} % of the images lie in the range of a fifth of the real test "
        f"images ({low:.0f} to {high:.0f}){also}. Pairs may harm there: see where they help."
    )


def _alignment(rows: list[dict[str, Any]], name: str) -> str:
    (mine,) = (row for row in rows if row["set"] == name)
    (real,) = (row for row in rows if row["real"])
    floor = mine["shuffled"]["mean"] if mine["shuffled"] else None
    return (
        f"Alignment: segmenters trained on real pairs find the mask with a Dice of "
        f"{number(mine['dice']['mean'])}; on real test pairs {number(real['dice']['mean'])}, with "
        f"shuffled masks {number(floor)}."
    )


def _fidelity(fidelity: Mapping[str, Any], name: str) -> str:
    honest = fidelity["honest"]
    if "left_out" in honest:
        return f"Fidelity: left out ({honest['left_out']})."
    rows = {row["set"]: row for row in honest["rows"]}
    real = rows["real_train"]
    return (
        f"Fidelity: KID {number(rows[name]['kid']['mean'])} against held-out test images; real "
        f"training images reach {number(real['kid']['mean'])}."
    )


def _memorisation(row: Mapping[str, Any]) -> str:
    if row["flagged"] is None:
        return f"Memorisation ({row['space']}): no share; {row['left_out']}."
    found = row["flagged"]
    more = "more than" if found["low"] > CLOSE else "no more than"
    return (
        f"Memorisation ({row['space']}): {percent(found)} of the images come nearer to a training "
        f"image than all but {100 * CLOSE:g} % of real test images do, {more} chance explains."
    )
