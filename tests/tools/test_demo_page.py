"""What the demo's last line opens: its weights and workflow in a real browser, ready to run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from siamese_diffusion.models.weights import read_weights, write_weights
from siamese_diffusion.tools import demo
from siamese_diffusion.tools.comfy_host import ROOT
from siamese_diffusion.tools.nuclei_crops import read_crops
from siamese_diffusion.tools.shipped_workflow import WORKFLOW
from support.browser import InThePage
from support.seeded_weights import made_up_bundle

pytest_plugins = ["support.browser"]


@pytest.mark.usefixtures("supported_page")
def test_the_address_opens_the_workflow_and_run_makes_its_image(
    nano: Path, in_the_page: InThePage, tmp_path: Path
) -> None:
    made = demo.Demo(tmp_path, demo.SMALL.settings)
    made.host.provision()
    shutil.copy(nano, made.base)
    write_weights(made.bundle, made_up_bundle(read_weights(nano).tensors), {})
    crop = read_crops("test")[0]
    made.place_files([replace(crop, mask=crop.mask[::2, ::2])])  # a quarter of the work
    graph = json.loads((ROOT / "workflows" / f"{WORKFLOW}.json").read_text("utf-8"))
    types = sorted(node["type"] for node in graph["nodes"])
    with made.host as host:
        address = host.workflow_url(WORKFLOW)
        found = in_the_page(address, "open.mjs", len(types))
        assert (found["nodes"], found["problems"]) == (types, [])
        (image,) = host.images(host.wait(found["prompt"]))
    assert image.is_file()
