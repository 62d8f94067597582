"""Recipes: the choices that define a variant of Siamese-Diffusion (docs/method.md)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args, get_type_hints

from ..common.text import shown
from ..common.text_files import parse_json


@dataclass(frozen=True)
class Recipe:
    """What the two branches take as input and train; the defaults are those of the published code.

    image_hint: the DHI input of the image branch. "image": x0, 3 channels, and the mask branch
        feeds y0 in 3 equal channels. "image_and_mask": [x0, y0], 4 channels, the mask branch
        feeds [0, y0].
    joint_control: control of the image branch from c_m, c_i and w = step / max_steps.
        "add": sg(c_m) + w c_i. "blend": sg(c_m) + w (c_i - sg(c_m)); (4).
    image_updates: what the image branch's loss trains besides the ControlNet.
    consistency: weight of L_c. "area": per pixel, lesion (1 - area), background area, where area
        is the lesion's share of the image (ADC, arXiv 2507.23652).
    image_weight: w of the joint control. "ramp": step / max_steps. "constant": 1 throughout.
    augmentation: "online": L_a, from a third of the steps on. "none": without it.
    branches: "mask" leaves out L_i, L_c and L_a: the ControlNet baseline.
    """

    image_hint: Literal["image", "image_and_mask"] = "image"
    joint_control: Literal["add", "blend"] = "add"
    image_updates: Literal["control", "control_and_decoder"] = "control"
    consistency: Literal["uniform", "area"] = "uniform"
    image_weight: Literal["ramp", "constant"] = "ramp"
    augmentation: Literal["online", "none"] = "online"
    branches: Literal["both", "mask"] = "both"

    def __post_init__(self) -> None:
        for name, allowed in RECIPE_CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"recipe.{name} is {shown(value)}; it must be one of {allowed}.")

    def hint_channels(self, mask_channels: int = 1) -> int:
        """Input channels of the DHI; mask_channels is 1 for binary masks, 3 for palette masks."""
        return 3 if self.image_hint == "image" else 3 + mask_channels

    @property
    def has_image_branch(self) -> bool:
        return self.branches == "both"

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read `to_json`'s output. Raises ValueError for unknown fields or values."""
        values = parse_json(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) - known:
            raise ValueError(f"{shown(text)} is not a recipe; its fields are {sorted(known)}.")
        return cls(**values)


RECIPE_CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(hint) for name, hint in get_type_hints(Recipe).items()
}

RECIPES: dict[str, Recipe] = {
    "published": Recipe(),
    "concat": Recipe(
        image_hint="image_and_mask", joint_control="blend", image_updates="control_and_decoder"
    ),
    "adaptive": Recipe(consistency="area"),
    "mask_only": Recipe(branches="mask"),
}
