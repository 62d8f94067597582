"""Masks for the nodes that change or show them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from support.workflow_prompts import Prompt, node


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def square(size: int = 64) -> Tensor:
    mask = torch.zeros(size, size)
    mask[16:40, 12:36] = 1
    return mask


def list_prompt(folder: str) -> Prompt:
    """Masks of a folder as a list, and each as an image: a white lesion, so of full contrast."""
    inputs = {"folder": folder, "subfolders": False, "start": 0, "count": 0}
    return {
        "load": node("SiameseLoadMaskFolder", **inputs),
        "image": node("MaskToImage", mask=["load", 0]),
    }


def augment_prompt(**settings: Any) -> Prompt:
    inputs = {
        **{"seed": 1, "variants": 3, "flip": True},
        **{"rotation": 20.0, "scale": 0.2, "elastic": 0.5, **settings},
    }
    return {
        "3": node("LoadImageMask", image="a.png", channel="red"),
        "new": node("SiameseAugmentMask", mask=["3", 0], **inputs),
        "image": node("MaskToImage", mask=["new", 0]),
        "show": node("PreviewImage", images=["image", 0]),
    }
