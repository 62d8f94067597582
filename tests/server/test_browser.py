"""The page in a real browser: workflows dropped, run, restored; missing models, help, templates."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

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
# A subgraph that needs nothing from outside: dropped on the page, it runs as it is.
BLUEPRINT = ROOT / "subgraphs" / "Siamese mask folder to dataset.json"
# A first visit would be shown the template browser.
SETTINGS = {"Comfy.TutorialCompleted": True}


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


@pytest.mark.parametrize("release", [None, OLDEST, NEWEST], ids=lambda name: name or "own")
def test_workflows_run_fit_their_groups_and_come_back_from_their_pictures(
    page_host: ComfyHost, in_the_page: InThePage, release: str | None
) -> None:
    """With classic nodes and with Nodes 2.0: all on the host's own page, two on the others."""
    every = sorted((ROOT / "workflows").glob("*.json"))
    workflows = [*(every if release is None else every[:1]), BLUEPRINT]
    values = json.dumps(VALUES)
    found = in_the_page(page_host.url, "workflows.mjs", values, *workflows, release=release)
    version = tuple(map(int, found.pop("version").split(".")[:2]))
    if version < NODES_2:
        for one in found["Nodes 2.0"].values():
            one["misplaced"] = []
    good = {
        **{"problems": [], "ended": "execution_success", "message": "", "misplaced": []},
        "restored": True,
    }
    expected = {workflow.stem: good for workflow in workflows}
    assert found == {"classic": expected, "Nodes 2.0": expected}


@pytest.mark.parametrize(
    ("release", "nodes2"), [(None, False), (OLDEST, False), (NEWEST, False), (NEWEST, True)]
)
def test_a_text_on_a_node_outlasts_the_run_the_cache_and_a_reload(
    page_host: ComfyHost, in_the_page: InThePage, release: str | None, nodes2: bool
) -> None:
    file = f"controlnet/{BUNDLE}"
    arguments = (str(nodes2).lower(), "SiameseModelInfo", "file_name", file)
    found = in_the_page(page_host.url, "shown_text.mjs", *arguments, release=release)
    (text,) = found["run"]["shown"]
    assert text.splitlines()[0].startswith(file)
    assert "hint channels: 3" in text.splitlines()
    assert found["cached"] == found["run"] == {"ended": "execution_success", "shown": [text]}
    assert found["reload"] == {"shown": [text]}


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
def test_help_opens_and_the_template_browser_shows_every_workflow(
    page_host: ComfyHost, in_the_page: InThePage
) -> None:
    names = sorted(workflow.stem for workflow in (ROOT / "workflows").glob("*.json"))
    found = in_the_page(page_host.url, "help.mjs", "SiameseSynthesizeDataset", PACK_NAME, *names)
    assert "ten thousand masks need no more memory than ten" in found["help"]
    assert sorted(found["templates"]) == [[name, True] for name in names]
