"""The loaders in a real ComfyUI server say what a wrong file is, and what to do with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from siamese_diffusion.models.dhi import DenseHintInput
from siamese_diffusion.models.weights import CONTROL, UNET
from siamese_diffusion.tools.comfy_host import ComfyHost, HostError
from workflow_prompts import BASE, BUNDLE, MERGED, bundle_prompt, merged_prompt

pytest_plugins = ["served_models"]


def write_wrong_file(kind: str, served: ComfyHost, path: Path) -> None:
    """A small file of that kind; what it is shows in its keys alone."""
    one = torch.zeros(1)
    keys = {
        "plain ControlNet": {f"{CONTROL}input_hint_block.0.weight": one},
        "diffusers ControlNet": {"controlnet_cond_embedding.conv_in.weight": one},
        "SDXL": {"conditioner.embedders.0.weight": one},
        "LoRA": {"lora_unet_down_blocks_0.lora_down.weight": one},
        "incomplete": {
            **{
                f"{CONTROL}input_hint_block.{k}": v
                for k, v in DenseHintInput().state_dict().items()
            },
            f"{UNET}out.2.weight": one,
        },
    }
    if kind in keys:
        save_file(keys[kind], path)
    elif kind == "truncated":
        whole = (served.models / "controlnet" / BUNDLE).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("This is not a model.", "utf-8")
    else:
        path.symlink_to(served.models / kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("plain ControlNet", "a plain ControlNet.*ComfyUI's own 'Load ControlNet Model'"),
        ("diffusers ControlNet", "a ControlNet in diffusers layout"),
        ("SDXL", "an SDXL checkpoint.*works with Stable Diffusion 1.x and 2.x only"),
        ("LoRA", "a LoRA.*'Load LoRA'"),
        ("truncated", "truncated one .*bytes.*Copy or download it again"),
        ("text", "not a safetensors file"),
        ("incomplete", "ControlNet: the weights do not fit.*missing: time_embed.*base checkpoint"),
        (f"checkpoints/{MERGED}", "a merged Siamese.*'Siamese Checkpoint Loader'"),
        (f"checkpoints/{BASE}", "a Stable Diffusion 1.x checkpoint without Siamese weights"),
    ],
)
def test_the_bundle_loader_says_what_a_wrong_file_is(
    served: ComfyHost, kind: str, message: str
) -> None:
    path = served.models / "controlnet" / f"wrong {kind.replace('/', ' ')}.safetensors"
    write_wrong_file(kind, served, path)
    prompt = bundle_prompt()
    prompt["2"]["inputs"]["bundle_name"] = path.name
    before = sorted(served.output.rglob("*"))
    with pytest.raises(HostError, match=f"SiameseBundleLoader.*{path.name}.*{message}"):
        served.run(prompt)
    assert sorted(served.output.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (f"controlnet/{BUNDLE}", "a Siamese bundle.*'Siamese Bundle Loader'"),
        (f"checkpoints/{BASE}", "a Stable Diffusion 1.x checkpoint.*add a Siamese bundle"),
        ("text", "not a checkpoint.*Convert it to .safetensors"),
    ],
)
def test_the_checkpoint_loader_says_what_a_wrong_file_is(
    served: ComfyHost, kind: str, message: str
) -> None:
    ending = "ckpt" if kind == "text" else "safetensors"
    path = served.models / "checkpoints" / f"wrong {kind.replace('/', ' ')}.{ending}"
    write_wrong_file(kind, served, path)
    prompt = merged_prompt()
    prompt["1"]["inputs"]["ckpt_name"] = path.name
    with pytest.raises(HostError, match=f"SiameseCheckpointLoader.*{path.name}.*{message}"):
        served.run(prompt)
