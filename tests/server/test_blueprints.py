"""The subgraphs offered as single nodes: the host lists them, and knows what is in them."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from siamese_diffusion.tools.comfy_host import COMFYUI, PACK_NAME, ROOT, ComfyHost
from support.needs import Need

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
OUTSIDE = {-10, -20}  # the subgraph's own inputs and outputs, as ends of links

each_blueprint = pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The node that stands for the subgraph, and the subgraph."""
    graph = json.loads(path.read_text("utf-8"))
    (node,), (subgraph,) = graph["nodes"], graph["definitions"]["subgraphs"]
    return node, subgraph


def fetched(host: ComfyHost, path: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(host.url + urllib.parse.quote(path)) as answer:
        return json.load(answer)


def test_the_host_lists_them(host: ComfyHost) -> None:
    if not (COMFYUI / "app" / "subgraph_manager.py").is_file():
        Need.BLUEPRINTS.skip()
    ours = {
        entry["name"]: key
        for key, entry in fetched(host, "/global_subgraphs").items()
        if entry["info"]["node_pack"] == f"custom_nodes.{PACK_NAME}"
    }
    assert sorted(ours) == [path.stem for path in BLUEPRINTS]
    for path in BLUEPRINTS:
        served = fetched(host, f"/global_subgraphs/{ours[path.stem]}")["data"]
        assert json.loads(served) == json.loads(path.read_text("utf-8"))


@each_blueprint
def test_its_nodes_and_links_fit_the_host(host: ComfyHost, path: Path) -> None:
    known = host.object_info()
    _, subgraph = read(path)
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for link in subgraph["links"]:
        if link["target_id"] not in OUTSIDE:
            target = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            assert (target["link"], target["type"]) == (link["id"], link["type"])
        if link["origin_id"] not in OUTSIDE:
            origin = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert (link["id"] in origin["links"], origin["type"]) == (True, link["type"])
    for node in nodes.values():
        inputs = known[node["type"]]["input"]
        names = {entry["name"] for entry in node["inputs"]}
        assert {*inputs["required"]} - {"upload"} <= names
        assert names <= {*inputs["required"], *inputs.get("optional", {})}


@each_blueprint
def test_it_says_what_it_is_for_and_keeps_its_seed(path: Path) -> None:
    node, subgraph = read(path)
    assert node["type"] == subgraph["id"]
    assert (subgraph["category"], subgraph["name"]) == ("Siamese-Diffusion", path.stem)
    assert len(subgraph["description"]) > 40
    names = [entry["name"] for entry in subgraph["inputs"]]
    assert names == [entry["name"] for entry in node["inputs"]]
    assert "seed" not in names  # outside, it would not change after each run
