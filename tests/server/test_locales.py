"""The node texts in locales/ name exactly what the nodes have, as the page asks for them."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

import pytest
from siamese_diffusion.tools.comfy_host import ROOT, ComfyHost

Texts = dict[str, Any]

# What vue-i18n, which shows them, would take for its own: links, plurals, interpolation.
SPECIAL = re.compile(r"[@|{}]")

# Names that Chinese users know in Latin letters, as in ComfyUI's own Chinese texts.
LATIN_NAMES = {"CFG", "CLIP", "ControlNet", "Latent", "VAE"}

each_locale = pytest.mark.parametrize("locale", ["en", "zh"])


def texts_of(locale: str) -> Texts:
    return json.loads((ROOT / "locales" / locale / "nodeDefs.json").read_text("utf-8"))


def described(info: Texts) -> Texts:
    """A node's texts as it declares them, in the form of the files."""
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    outputs = zip(info["output_name"], info["output_tooltips"] or [], strict=True)
    texts = {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            name: {"name": name, "tooltip": spec[1]["tooltip"]} for name, spec in inputs.items()
        },
        "outputs": {
            str(index): {"name": name, "tooltip": tooltip}
            for index, (name, tooltip) in enumerate(outputs)
        },
    }
    return {key: value for key, value in texts.items() if value}


def shape(texts: Any) -> Any:
    """The keys alone."""
    return {key: shape(value) for key, value in texts.items()} if isinstance(texts, dict) else ""


def leaves(texts: Any) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    return [leaf for value in texts.values() for leaf in leaves(value)]


@pytest.fixture
def nodes(host: ComfyHost) -> Texts:
    known = host.object_info().items()
    return {name: described(info) for name, info in known if name.startswith("Siamese")}


def test_english_texts_are_the_nodes_own(nodes: Texts) -> None:
    assert texts_of("en") == nodes


@each_locale
def test_every_text_is_there_and_none_is_left_over(nodes: Texts, locale: str) -> None:
    texts = texts_of(locale)
    assert shape(texts) == shape(nodes)
    assert [leaf for leaf in leaves(texts) if not leaf.strip() or SPECIAL.search(leaf)] == []


def test_chinese_texts_are_chinese() -> None:
    found = leaves(texts_of("zh"))
    not_chinese = {text for text in found if not re.search(r"[\u4e00-\u9fff]", text)}
    assert not_chinese - LATIN_NAMES == set()


@each_locale
def test_the_server_hands_them_to_the_page(host: ComfyHost, locale: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{host.url}/i18n") as answer:
        served = json.load(answer)[locale]["nodeDefs"]
    expected = texts_of(locale)
    assert {name: served[name] for name in expected} == expected
