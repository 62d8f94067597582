"""Every shipped workflow fits the running host, and its API form is the same graph."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from siamese_diffusion.tools.comfy_host import COMFYUI, ROOT, ComfyHost
from siamese_diffusion.tools.setup_env import OWN_COMFYUI
from support.workflow_prompts import BASE, BUNDLE, MASK, MERGED, write_mask

pytest_plugins = ["support.served_models"]

FOLDER = ROOT / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.json"))
PAGE_ONLY = {"MarkdownNote"}  # drawn by the page; the server does not know them
# Widgets of the page, saved with an input's value but not sent to the server.
SEED_MODES = {"fixed", "increment", "decrement", "randomize"}
UPLOAD = "image"
OTHER_HOST = OWN_COMFYUI.resolve() != COMFYUI  # than the one that the workflows were saved with

Graph = dict[str, Any]

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def api_form(path: Path) -> Graph:
    return read(FOLDER / "api" / path.name)


def server_nodes(graph: Graph) -> list[Graph]:
    return [node for node in graph["nodes"] if node["type"] not in PAGE_ONLY]


def all_inputs(info: Graph) -> dict[str, tuple[Any, Graph]]:
    """Input name -> type (or list of choices) and options."""
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in inputs.items()}


def widget_values(node: Graph, info: Graph) -> Graph:
    """Input name -> value, from the page's list of values."""
    names = [entry["name"] for entry in node["inputs"] if "widget" in entry]
    values = list(node["widgets_values"])
    named = {}
    for name in names:
        named[name] = values.pop(0)
        options = all_inputs(info)[name][1]
        if options.get("control_after_generate"):
            assert values.pop(0) in SEED_MODES
        if options.get("image_upload") and values[-1:] == [UPLOAD]:
            values.pop()
    assert values == [], f"{node['type']}: values without a widget: {values}"
    return named


def test_every_workflow_has_both_forms() -> None:
    assert WORKFLOWS
    assert [p.name for p in WORKFLOWS] == sorted(p.name for p in (FOLDER / "api").glob("*.json"))


@each_workflow
def test_every_workflow_has_a_thumbnail_for_the_template_browser(path: Path) -> None:
    thumbnail = path.with_suffix(".jpg")  # the page asks for no other name
    assert thumbnail.stat().st_size < 60_000
    with Image.open(thumbnail) as picture:
        assert picture.format == "JPEG"
        assert picture.width == 2 * picture.height
        pixels = np.asarray(picture)
    assert pixels.max() - pixels.min() > 100, "one colour"


def test_help_pages_name_workflows_that_exist() -> None:
    pages = [*(ROOT / "web" / "docs").rglob("*.md")]
    named = {
        name for page in pages for name in re.findall(r"\*(\d_\w+)\*", page.read_text("utf-8"))
    }
    assert named == {path.stem for path in WORKFLOWS}


def test_every_help_page_is_there_in_chinese_with_the_same_inputs() -> None:
    folder = ROOT / "web" / "docs"
    pages = sorted(folder.glob("*.md"))
    assert {page.stem for page in pages} == {page.parent.name for page in folder.glob("*/zh.md")}
    for page in pages:
        english, chinese = (
            re.findall(r"^\| (`.*?) \|", path.read_text("utf-8"), re.M)
            for path in (page, folder / page.stem / "zh.md")
        )
        assert [row.replace(", ", "、") for row in english] == chinese, page.stem


@each_workflow
def test_the_host_knows_every_node_and_input(host: ComfyHost, path: Path) -> None:
    known = host.object_info()
    for node in server_nodes(read(path)):
        info = known[node["type"]]
        assert {entry["name"] for entry in node["inputs"]} <= set(all_inputs(info))
        outputs = [entry["type"] for entry in node["outputs"]]
        # Newer hosts add outputs to their own nodes, after those that links may name.
        added = OTHER_HOST and not node["type"].startswith("Siamese")
        assert outputs == info["output"][: len(outputs) if added else None]
    for node in api_form(path).values():
        inputs = known[node["class_type"]]["input"]
        assert set(node["inputs"]) <= set(all_inputs(known[node["class_type"]]))
        assert set(inputs["required"]) - {"upload"} <= set(node["inputs"])


@each_workflow
def test_choices_are_ones_that_the_host_offers(host: ComfyHost, path: Path) -> None:
    """But for files, which every user has others of."""
    known = host.object_info()
    files = {"ckpt_name", "bundle_name", "image"}
    for node in api_form(path).values():
        for name, value in node["inputs"].items():
            kind, options = all_inputs(known[node["class_type"]])[name]
            choices = kind if isinstance(kind, list) else options.get("options")
            assert name in files or choices is None or value in choices, (name, value)


@each_workflow
def test_both_forms_are_the_same_graph(host: ComfyHost, path: Path) -> None:
    known, graph = host.object_info(), read(path)
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    prompt = {}
    for node in server_nodes(graph):
        linked = {e["name"]: links[e["link"]] for e in node["inputs"] if e["link"] is not None}
        values = widget_values(node, known[node["type"]])
        prompt[str(node["id"])] = (node["type"], {**values, **linked})
    expected = {id_: (node["class_type"], node["inputs"]) for id_, node in api_form(path).items()}
    assert prompt == expected


@each_workflow
def test_links_and_ids_are_consistent(path: Path) -> None:
    graph = read(path)
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"])
    assert graph["last_node_id"] == max(nodes)
    assert graph["last_link_id"] == max(link[0] for link in graph["links"])
    for id_, source, output, target, slot, kind in graph["links"]:
        assert id_ in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == id_
        assert nodes[target]["inputs"][slot]["type"] == nodes[source]["outputs"][output]["type"]
        assert kind == nodes[target]["inputs"][slot]["type"]


@each_workflow
def test_the_page_can_say_which_model_is_missing_and_where_it_goes(path: Path) -> None:
    for node in read(path)["nodes"]:
        values = map(str, node["widgets_values"])
        loads = [value for value in values if value.endswith((".safetensors", ".pth"))]
        models = node["properties"].get("models", [])
        assert [model["name"] for model in models] == loads
        assert all(model["url"].startswith("https://") for model in models)
        assert all(model["directory"] in {"checkpoints", "controlnet"} for model in models)


APPS = [path for path in WORKFLOWS if "linearData" in read(path)["extra"]]


def test_what_a_clinician_would_use_is_an_app_too() -> None:
    names = ["1_mask_to_image", "2_painted_mask_to_image", "4_lesion_into_image"]
    assert [path.stem for path in APPS] == names


@pytest.mark.parametrize("path", APPS, ids=lambda path: path.stem)
def test_an_apps_inputs_are_widgets_and_its_outputs_save_images(path: Path) -> None:
    graph = read(path)
    nodes = {node["id"]: node for node in graph["nodes"]}
    app = graph["extra"]["linearData"]
    for id_, widget in app["inputs"]:
        assert widget in [entry["name"] for entry in nodes[id_]["inputs"] if "widget" in entry]
    assert [nodes[id_]["type"] for id_ in app["outputs"]] == ["SaveImage"]
    # Opens as a graph: weights are chosen, and masks painted, there alone.
    assert graph["extra"]["linearMode"] is False


@each_workflow
def test_a_note_says_what_to_change_first(path: Path) -> None:
    notes = [n["widgets_values"][0] for n in read(path)["nodes"] if n["type"] in PAGE_ONLY]
    assert any("Change first" in note for note in notes)
    assert not any("`" in note for note in notes)  # code is unreadable on some pages


def on_served_files(prompt: Graph, stem: str) -> Graph:
    """The prompt on the served weights and masks, small and fast, into a folder of its own."""
    for entry in prompt.values():
        merged = entry["class_type"] == "SiameseCheckpointLoader"
        small = {
            **{"ckpt_name": MERGED if merged else BASE, "bundle_name": BUNDLE},
            **{"image": MASK if entry["class_type"] == "LoadImageMask" else "painted.png"},
            **{"steps": 2, "width": 64, "height": 64, "minimum": 0.0},
            "folder": stem if entry["class_type"] == "SiameseSavePairs" else "workflow masks",
            "output_folder": stem,
        }
        for name, value in entry["inputs"].items():
            if name in small and not isinstance(value, list):
                entry["inputs"][name] = small[name]
    return prompt


@each_workflow
def test_every_workflow_ends_in_pictures(served: ComfyHost, path: Path) -> None:
    (served.input / "workflow masks").mkdir(exist_ok=True)
    for name in ("m1", "m2"):
        mask = served.input / "workflow masks" / f"{name}.png"
        write_mask(mask, (slice(8, 40), slice(8, 24 + 8 * int(name[1]))))
    Image.new("RGBA", (64, 64), (90, 60, 200, 0)).save(served.input / "painted.png")
    history = served.run(on_served_files(api_form(path), path.stem))
    pictures = served.images(history)
    assert pictures
    assert all(picture.is_file() for picture in pictures)
    if path.stem.endswith("dataset"):
        pairs = (served.output / path.stem / "prompt.jsonl").read_text("utf-8").splitlines()
        assert len(pairs) >= 2
