"""The page in a real browser: workflows dropped, run, restored; missing models, help, templates."""

from __future__ import annotations

import json
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from siamese_diffusion.models.weights import read_weights
from siamese_diffusion.tools.comfy_host import PACK_NAME, ROOT, ComfyHost
from siamese_diffusion.tools.setup_env import PAGES
from support.browser import InThePage
from support.workflow_prompts import BASE, BUNDLE, MERGED, write_mask

pytest_plugins = ["support.browser", "support.served_models"]

# Small and fast; 0 keeps every pair.
VALUES = {"steps": 2, "width": 64, "height": 64, "minimum": 0, "cell_size": 64}
# Releases of the page beside the host's own: what the oldest supported ComfyUI has, and the newest.
OLDEST, NEWEST = PAGES
# From this release on. Before it, the page itself moves nodes, or draws them in sizes of its own.
NODES_2 = (1, 45)
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
# A subgraph that needs nothing from outside: dropped on the page, it runs as it is.
BLUEPRINT = ROOT / "subgraphs" / "Siamese mask folder to dataset.json"
# One that takes a mask and gives an image.
BLUEPRINT_BETWEEN = ROOT / "subgraphs" / "Siamese mask to image.json"
# What the page wants every node of a file to have.
NODE = {"size": [400, 400], "flags": {}, "mode": 0, "order": 0, "properties": {}}
# A first visit would be shown the template browser, and a file saved only once it is named.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.PromptFilename": False}


@pytest.fixture(scope="module")
def page_host(served: ComfyHost) -> ComfyHost:
    """The server with weights, masks and pictures under the names that the workflows have."""
    checkpoints = served.models / "checkpoints"
    (checkpoints / "v1-5-pruned-emaonly.safetensors").symlink_to(checkpoints / BASE)
    torch.save(read_weights(checkpoints / MERGED).tensors, checkpoints / "merged_pytorch_model.pth")
    controlnets = served.models / "controlnet"
    (controlnets / "siamese.safetensors").symlink_to(controlnets / BUNDLE)
    (served.input / "masks").mkdir()
    for path in (served.input / "mask.png", *(served.input / "masks" / f"{n}.png" for n in (1, 2))):
        write_mask(path, (slice(8, 40), slice(8, 40)))
    Image.new("RGBA", (64, 64), (90, 60, 200, 0)).save(served.input / "image.png")
    settings = served.base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(SETTINGS), "utf-8")
    return served


def between_nodes(blueprint: Path) -> dict[str, Any]:
    """The workflow of a blueprint with a node that loads its mask and one that saves its image."""
    graph = json.loads(blueprint.read_text("utf-8"))
    (node,) = graph["nodes"]
    node["inputs"][0]["link"], node["outputs"][0]["links"] = 1, [2]
    mask = {"name": "MASK", "type": "MASK", "links": [1]}
    image = {"name": "images", "type": "IMAGE", "link": 2}
    load = {"id": 2, "type": "LoadImageMask", "outputs": [mask], "widgets_values": ["mask.png"]}
    save = {"id": 3, "type": "SaveImage", "inputs": [image], "widgets_values": ["between"]}
    graph["nodes"] += [{**load, "pos": [-500, 0], **NODE}, {**save, "pos": [500, 0], **NODE}]
    graph["links"] = [[1, 2, 0, node["id"], 0, "MASK"], [2, node["id"], 0, 3, 0, "IMAGE"]]
    return graph


@pytest.mark.usefixtures("supported_page")
@pytest.mark.parametrize("release", [None, OLDEST, NEWEST], ids=lambda name: name or "own")
def test_workflows_run_fit_their_groups_and_come_back_from_files_and_pictures(
    page_host: ComfyHost, in_the_page: InThePage, tmp_path: Path, release: str | None
) -> None:
    """With classic nodes and with Nodes 2.0; "faint" are notes that can hardly be read."""
    between = tmp_path / BLUEPRINT_BETWEEN.name
    between.write_text(json.dumps(between_nodes(BLUEPRINT_BETWEEN)), "utf-8")
    workflows = [*WORKFLOWS, BLUEPRINT, between]
    values = json.dumps(VALUES)
    found = in_the_page(page_host.url, "workflows.mjs", values, *workflows, release=release)
    version = tuple(map(int, found.pop("version").split(".")[:2]))
    if version < NODES_2:
        for one in found["Nodes 2.0"].values():
            one["misplaced"] = []
    good = {
        **{"problems": [], "ended": "execution_success", "message": "", "misplaced": []},
        **{"faint": [], "lost": []},
    }
    expected = {workflow.stem: good for workflow in workflows}
    assert found == {"classic": expected, "Nodes 2.0": expected}


@pytest.mark.parametrize(
    ("release", "nodes2"), [(None, False), (OLDEST, False), (NEWEST, False), (NEWEST, True)]
)
def test_a_text_on_a_node_outlasts_the_run_the_cache_and_a_reload(
    page_host: ComfyHost,
    in_the_page: InThePage,
    tmp_path: Path,
    release: str | None,
    nodes2: bool,
) -> None:
    file, folder = f"controlnet/{BUNDLE}", f"texts/{release}{nodes2}"
    info = {"id": 1, "type": "SiameseModelInfo", "pos": [0, 0], "widgets_values": [file], **NODE}
    alone = {"nodes": [info], "links": [], "last_node_id": 1, "last_link_id": 0, "version": 0.4}
    (tmp_path / "info.json").write_text(json.dumps(alone), "utf-8")
    values = VALUES | {"control_after_generate": "fixed", "output_folder": folder}
    shown = {
        "SiameseModelInfo": tmp_path / "info.json",
        "SiameseFilterPairs": ROOT / "workflows" / "6_augmented_to_dataset.json",
        "SiameseSynthesizeDataset": ROOT / "workflows" / "5_folder_to_dataset.json",
    }
    arguments = (str(nodes2).lower(), json.dumps(values), *chain.from_iterable(shown.items()))
    found = in_the_page(page_host.url, "shown_text.mjs", *arguments, release=release)
    texts = {name: one["run"]["shown"][0] for name, one in found.items()}
    assert texts["SiameseModelInfo"].splitlines()[0].startswith(file)
    assert "hint channels: 3" in texts["SiameseModelInfo"].splitlines()
    assert texts["SiameseFilterPairs"].startswith("Kept 4 of 4 pairs")
    made = f"2 pairs in output/{folder}: "
    assert texts["SiameseSynthesizeDataset"] == f"{made}2 new, 0 were there already"
    # It always looks for itself what is there.
    last = texts | {"SiameseSynthesizeDataset": f"{made}0 new, 2 were there already"}
    assert found == {
        name: {
            "run": {"ended": "execution_success", "shown": [texts[name]]},
            "cached": {"ended": "execution_success", "shown": [last[name]]},
            "reload": {"shown": [last[name]]},
        }
        for name in shown
    }


def test_workflows_open_as_graphs_and_run_as_apps(
    page_host: ComfyHost, in_the_page: InThePage
) -> None:
    """On the newest page alone: older ones have no apps, or other ones."""
    apps = {"1_mask_to_image": [], "2_painted_mask_to_image": [], "4_lesion_into_image": ["edge"]}
    files = [ROOT / "workflows" / f"{name}.json" for name in apps]
    values = json.dumps(VALUES)
    found = in_the_page(page_host.url, "app_mode.mjs", values, *files, release=NEWEST)
    assert found == {
        name: {
            "graphFirst": True,
            "inputs": ["image", "text", *more, "seed"],
            "ended": "execution_success",
        }
        for name, more in apps.items()
    }


@pytest.mark.parametrize(
    ("workflow", "models"),
    [
        (
            "1_mask_to_image",
            {"v1-5-pruned-emaonly.safetensors": "checkpoints", "siamese.safetensors": "controlnet"},
        ),
        ("3_merged_checkpoint", {"merged_pytorch_model.pth": "checkpoints"}),
    ],
)
def test_the_page_names_missing_models_and_their_folders(
    page_host: ComfyHost,
    in_the_page: InThePage,
    tmp_path: Path,
    workflow: str,
    models: dict[str, str],
) -> None:
    text = (ROOT / "workflows" / f"{workflow}.json").read_text("utf-8")
    for name in models:  # the host has these
        text = text.replace(f'"{name}"', f'"absent-{name}"')
    (tmp_path / "absent.json").write_text(text, "utf-8")
    lines = in_the_page(page_host.url, "missing.mjs", str(tmp_path / "absent.json"))["lines"]
    for name, folder in models.items():
        # Before the name on older pages, below it on newer ones. Nodes 2.0 show the name too.
        before = any(f"{folder} / absent-{name}" in line for line in lines)
        assert before or (f"absent-{name}", folder) in pairwise(lines), lines
    assert "Invalid directory" not in " ".join(lines)


@pytest.mark.usefixtures("supported_page")
def test_help_opens(page_host: ComfyHost, in_the_page: InThePage) -> None:
    found = in_the_page(page_host.url, "help.mjs", "SiameseSynthesizeDataset")
    assert "ten thousand masks need no more memory than ten" in found["help"]


@pytest.mark.usefixtures("supported_page")
@pytest.mark.parametrize("release", [None, OLDEST, NEWEST], ids=lambda name: name or "own")
def test_the_template_browser_shows_every_workflow_the_one_to_start_with_first(
    page_host: ComfyHost, in_the_page: InThePage, release: str | None
) -> None:
    """Sorted by name; otherwise the page has the server's order, which no pack can change."""
    names = [workflow.stem for workflow in WORKFLOWS]
    found = in_the_page(page_host.url, "templates.mjs", PACK_NAME, *names, release=release)
    with_picture, can_be_read = True, True
    assert found["templates"] == [[name, with_picture, can_be_read] for name in names]
