"""Synthetic pairs by name: how each is called, and its own seed.

Node and synthesize.py share this rule, so that the same mask, number and seed give the same pair on
both sides, whatever is made beside it, in which order and on how many machines.
"""

from __future__ import annotations

import hashlib


def item_name(stem: str, index: int) -> str:
    """The name of image number `index`, from 1, of the mask called `stem`.

    Always with the number: a mask called a_2 must not meet the second image of mask a.
    """
    return f"{stem}_{index}"


def item_seed(seed: int, stem: str, index: int) -> int:
    """The image's own seed, 0 to 2^64 - 1: depends on `seed`, stem and index alone."""
    digest = hashlib.sha256(f"{seed}/{index}/{stem}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def hash_number(name: str) -> int:
    """0 to 2^64 - 1, evenly: decides a name's shard and folder, on every machine alike."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
