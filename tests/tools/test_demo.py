"""The demo: what it asks of ComfyUI, the files it leaves for the page, and its folder."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from siamese_diffusion.tools import demo, shipped_workflow
from siamese_diffusion.tools.comfy_host import ROOT
from siamese_diffusion.tools.nuclei_crops import PROMPT, read_crops

WORKFLOWS = ROOT / "workflows"


def test_workflows_are_patched_by_node_class() -> None:
    prompt = {"7": {"class_type": "SiameseSampler", "inputs": {"seed": 0, "model": ["1", 0]}}}
    patched = shipped_workflow.patch_prompt(prompt, {"SiameseSampler": {"seed": 3}})
    assert patched["7"]["inputs"] == {"seed": 3, "model": ["1", 0]}
    with pytest.raises(ValueError, match="no node SaveImage"):
        shipped_workflow.patch_prompt(prompt, {"SaveImage": {}})
    with pytest.raises(ValueError, match=r"no input \['steps'\]"):
        shipped_workflow.patch_prompt(prompt, {"SiameseSampler": {"steps": 3}})


def test_nothing_of_the_shipped_workflow_changes_but_values(tmp_path: Path) -> None:
    shipped = json.loads((WORKFLOWS / "api" / "1_mask_to_image.json").read_text("utf-8"))
    made = demo.Demo(tmp_path, replace(demo.SMALL.settings, sampling_steps=7, cfg=3.5))
    crop = read_crops("test")[0]
    prompt = made.prompt(crop, seed=5)
    changed = {
        (node["class_type"], name): value
        for key, node in prompt.items()
        for name, value in node["inputs"].items()
        if value != shipped[key]["inputs"][name]
    }
    assert changed == {
        ("CheckpointLoaderSimple", "ckpt_name"): "nuclei_base.safetensors",
        ("SiameseBundleLoader", "bundle_name"): "nuclei.safetensors",
        ("LoadImageMask", "image"): f"{crop.name}.png",
        ("CLIPTextEncode", "text"): PROMPT,
        ("SiameseSampler", "seed"): 5,
        ("SiameseSampler", "steps"): 7,
        ("SiameseSampler", "cfg"): 3.5,
        ("SaveImage", "filename_prefix"): "nuclei/image",
    }
    inputs = {key: node["inputs"].keys() for key, node in prompt.items()}
    assert inputs == {key: node["inputs"].keys() for key, node in shipped.items()}
    positive, negative = (n for n in prompt.values() if n["class_type"] == "CLIPTextEncode")
    assert (positive["inputs"]["text"], negative["inputs"]["text"]) == (PROMPT, "")


def test_files_have_the_names_that_the_template_has(tmp_path: Path) -> None:
    made, crops = demo.Demo(tmp_path, demo.SMALL.settings), read_crops("test")[:2]
    for _ in range(2):  # a second demo finds those of the first
        made.place_files(crops)
    made.base.write_text("base")
    made.bundle.write_text("bundle")
    graph = json.loads((WORKFLOWS / "1_mask_to_image.json").read_text("utf-8"))
    values = {node["type"]: node.get("widgets_values") for node in graph["nodes"]}
    checkpoint = made.host.models / "checkpoints" / values["CheckpointLoaderSimple"][0]
    bundle = made.host.models / "controlnet" / values["SiameseBundleLoader"][0]
    mask = made.host.input / values["LoadImageMask"][0]
    assert (checkpoint.read_text(), bundle.read_text()) == ("base", "bundle")
    assert mask.read_bytes() == (made.host.input / f"{crops[0].name}.png").read_bytes()


@pytest.mark.parametrize("flags", [[], ["--large"]])
@pytest.mark.parametrize(("share", "code"), [(1.0, 0), (0.99, 1)])
def test_exit_code_says_whether_the_figure_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], share: float, code: int
) -> None:
    required = (demo.LARGE if flags else demo.SMALL).required
    monkeypatch.setattr(demo.Demo, "run", lambda _: {"sampled": share * required})
    assert demo.main([*flags, f"--out={tmp_path / 'out'}"]) == code


def test_last_line_serves_the_folder_and_the_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.Demo, "run", lambda _: {"sampled": 1.0})
    assert demo.main([f"--out={tmp_path / 'the demo'}"]) == 0
    *command, folder, flag, workflow = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command == [sys.executable, "-m", "siamese_diffusion.tools.comfy_host", "--base"]
    assert Path(folder) == tmp_path / "the demo" / "comfyui"
    assert (flag, (WORKFLOWS / f"{workflow}.json").is_file()) == ("--workflow", True)


def test_the_folder_is_kept_until_settings_change(tmp_path: Path) -> None:
    folder, settings = tmp_path / "out", demo.SMALL.settings
    demo.prepare_folder(folder, settings, fresh=False)
    (folder / "base").touch()
    demo.prepare_folder(folder, settings, fresh=False)
    assert (folder / "base").exists()
    demo.prepare_folder(folder, replace(settings, steps=1), fresh=False)
    assert not (folder / "base").exists()
    (tmp_path / "mine").touch()
    with pytest.raises(demo.DemoError, match="move it away"):
        demo.prepare_folder(tmp_path, settings, fresh=True)
