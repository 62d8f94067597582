"""What the pack costs at ComfyUI's start: little time, and no library that only training needs."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
from siamese_diffusion.tools.comfy_host import COMFYUI, PYTHON, ROOT
from support.needs import Need
from support.registry_archive import archive_files

FORBIDDEN = {"diffusers", "accelerate", "library", "matplotlib", "kornia"}
SHARE = 0.05  # of the processor time that ComfyUI itself takes to start

pytestmark = pytest.mark.slow

# Loads what ComfyUI's start loads anyhow, then the pack as ComfyUI does.
SCRIPT = """
import sys, time
begin = time.process_time()
sys.path.insert(0, sys.argv[1])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import nodes, latent_preview, comfy.controlnet, comfy.sample
from comfy_api.latest import io, ui
before, start = set(sys.modules), time.process_time()
host_seconds = start - begin
import asyncio, importlib.util, json
spec = importlib.util.spec_from_file_location(
    "pack", sys.argv[2] + "/__init__.py", submodule_search_locations=[sys.argv[2]]
)
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
async def start_up():
    return await (await pack.comfy_entrypoint()).get_node_list()
classes = asyncio.run(start_up())
node_ids = [node.GET_SCHEMA().node_id for node in classes]
print(json.dumps({
    "host_seconds": host_seconds,
    "seconds": time.process_time() - start,
    "modules": sorted({name.split(".")[0] for name in set(sys.modules) - before}),
    "nodes": node_ids,
}))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A start with the files that the registry gets, and no others."""
    if not COMFYUI.is_dir():
        Need.COMFYUI.skip()
    pack = tmp_path_factory.mktemp("installed by the manager")
    for path in archive_files():
        (pack / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, pack / path)
    command = [str(PYTHON), "-c", SCRIPT, str(COMFYUI), str(pack)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_starting_loads_nothing_that_only_training_needs(start: dict[str, Any]) -> None:
    known = json.loads((ROOT / "tests/data/node_inputs.json").read_text("utf-8"))
    assert sorted(start["nodes"]) == sorted(known)
    assert not FORBIDDEN & set(start["modules"])


def test_starting_takes_little_time(start: dict[str, Any]) -> None:
    assert start["seconds"] < SHARE * start["host_seconds"]
