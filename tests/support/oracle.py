"""What the published code computes, on weights made by a rule (tests/data/README.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from safetensors.torch import load_file
from siamese_diffusion.models.weights import StateDict

from support.paths import DATA
from support.seeded_weights import seeded


@dataclass(frozen=True)
class Oracle:
    """tensors: inputs and outputs by name; the rest as in published.json."""

    tensors: StateDict
    cases: dict[str, Any]
    small: dict[str, Any]
    full: dict[str, list[int]]

    def weights(self) -> StateDict:
        """The reduced networks by their prefixed keys, checked against the sums they must have."""
        weights = {key: seeded(key, facts["shape"]) for key, facts in self.small.items()}
        for key, facts in self.small.items():
            total = weights[key].double().sum().item()
            assert total == pytest.approx(facts["sum"], abs=1e-6 * facts["abs_sum"]), key
        return weights


def read_oracle() -> Oracle:
    facts = json.loads((DATA / "published.json").read_text("utf-8"))
    return Oracle(load_file(DATA / "published.safetensors"), **facts)


ORACLE = read_oracle()
