"""What the page says and colours where images and groups disagree."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from siamese_diffusion.evaluation.arms import BASELINE
from siamese_diffusion.evaluation.report import page, plots, words


def interval(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 20}


def content(grouped: bool) -> dict[str, Any]:
    """Every metric changes by 0.02: a gain (for HD95 a loss) by images, nothing by groups."""
    by_group = interval(0.02, 0.03) if grouped else None
    figures = {"difference": interval(0.02, 0.01), "difference_by_group": by_group}
    row = {
        "arm": "real + 1x new",
        "synthetic_set": "new",
        "ratio": 1.0,
        "segmenters": {"all": dict.fromkeys(("dice", "iou", "hd95"), figures)},
    }
    honest = {"left_out": "too few"}
    alignment = [
        {"set": name, "real": name != "new", "dice": interval(0.8, 0.1), "shuffled": None}
        for name in ("real_test", "new")
    ]
    return {
        "downstream": {"table": [{**row, "arm": BASELINE, "synthetic_set": None}, row]},
        "filter": None,
        "contrast": {
            "ranges": [[n, n + 1] for n in range(5)],
            "sets": [
                {"set": "real_train", "mean": 2.5, "shares": [0.1, 0.1, 0.2, 0.3, 0.3]},
                {"set": "new", "mean": 2.5, "shares": [0.01, 0.09, 0.3, 0.3, 0.3]},
            ],
            "arms": [],
        },
        "alignment": alignment,
        "fidelity": {"honest": honest},
        "memorisation": [],
    }


def test_the_sentence_trusts_groups_where_there_are_any() -> None:
    grouped, alone = (words.summary(content(known), "new")[0] for known in (True, False))
    assert "+0.020 (\N{MINUS SIGN}0.010 to +0.050), drawing whole groups: no difference" in grouped
    assert "a gain" not in grouped
    assert "+0.020 (+0.010 to +0.030), drawing images: a gain." in alone


def test_a_range_of_contrast_that_a_set_does_not_have_is_named() -> None:
    known = content(False)
    (scarce,) = (text for text in words.summary(known, "new") if text.startswith("Contrast"))
    assert "1 % of the images lie in the range of a fifth" in scarce
    assert "(0 to 1), 10 % of the real training images." in scarce
    known["contrast"]["sets"][1]["shares"] = [0.05, 0.05, 0.3, 0.3, 0.3]
    assert not any("Contrast" in text for text in words.summary(known, "new"))
    known["contrast"] = {"left_out": "too few"}
    assert not any("Contrast" in text for text in words.summary(known, "new"))


def test_a_files_name_in_a_plot_is_no_formula() -> None:
    name = "features of TorchScript in a$x^$.pt"
    assert plots.histograms([0.1], [0.2], None, name).startswith("data:image/svg+xml")
    assert plots.points([plots.Point("new", 0.5)], name).startswith("data:image/svg+xml")


@pytest.mark.parametrize(
    ("metric", "colour"), [("dice", plots.GAIN), ("iou", plots.GAIN), ("hd95", plots.LOSS)]
)
def test_colours_trust_groups_where_there_are_any(metric: str, colour: str) -> None:
    grouped, alone = (
        base64.b64decode(
            page._differences(content(known)["downstream"]["table"], metric).partition(",")[2]
        ).decode()
        for known in (True, False)
    )
    assert colour in alone
    assert plots.GAIN not in grouped and plots.LOSS not in grouped
