"""The loaders say what a wrong file is and what to do with it, most in a real ComfyUI server."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from siamese_diffusion.models.dhi import DenseHintInput
from siamese_diffusion.models.kinds import CONTROL, UNET, Kind
from siamese_diffusion.models.weights import StateDict, WeightsError, read_weights, write_weights
from siamese_diffusion.tools.comfy_host import ComfyHost, HostError
from support.workflow_prompts import BASE, BUNDLE, MERGED, bundle_prompt, merged_prompt

pytest_plugins = ["support.comfy_inside", "support.served_models"]

HTML = b"<!DOCTYPE html>\n<html><title>Access denied</title></html>\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265380512\n"


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
    elif kind == "half a pickle":
        torch.save({"a": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind.startswith("without "):
        merged = read_weights(served.models / "checkpoints" / MERGED).tensors
        del merged[UNET + kind.removeprefix("without ")]
        save_file(merged, path)
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
        ("text", r"not a weight file \(20 bytes, begins with b'This is.*Copy or download it again"),
        ("half a pickle", r"truncated one \(2000 bytes; .*Copy or download it again"),
        (
            "without output_blocks.0.0.in_layers.0.weight",
            "Stable Diffusion model in it is incomplete.*Copy, download or merge it again",
        ),
    ],
)
def test_the_checkpoint_loader_says_what_a_wrong_file_is(
    served: ComfyHost, kind: str, message: str
) -> None:
    ending = "ckpt" if kind in ("text", "half a pickle") else "safetensors"
    path = served.models / "checkpoints" / f"wrong {kind.replace('/', ' ')}.{ending}"
    write_wrong_file(kind, served, path)
    prompt = merged_prompt()
    prompt["1"]["inputs"]["ckpt_name"] = path.name
    with pytest.raises(HostError, match=f"SiameseCheckpointLoader.*{path.name}.*{message}"):
        served.run(prompt)


def save(content: Any, path: Path, *, zipped: bool = True) -> bytes:
    """What torch writes for it."""
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_pickle_cut_short_is_called_truncated(tmp_path: Path, zipped: bool, share: float) -> None:
    path = tmp_path / "weights.pth"
    whole = save({"a": torch.zeros(1000)}, path, zipped=zipped)
    assert read_weights(path).tensors.keys() == {"a"}
    path.write_bytes(whole[: int(share * len(whole))])
    size = path.stat().st_size
    with pytest.raises(
        WeightsError, match=rf"weights.pth: .*truncated one \({size} bytes"
    ) as error:
        read_weights(path)
    assert "code" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"x", HTML, LFS_POINTER])
def test_what_never_was_weights_is_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    beginning = re.escape(repr(content[:12])[:-1])
    with pytest.raises(
        WeightsError, match=rf"not a weight file \({len(content)} bytes, begins with {beginning}"
    ) as error:
        read_weights(path)
    assert "code" not in str(error.value)


class Thing:
    """What a file of tensors alone never holds."""


@pytest.mark.parametrize(
    ("content", "named"),
    [({"a": Thing()}, "Thing"), ({"a": partial(print)}, "functools.partial")],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused(
    tmp_path: Path, content: Any, named: str, zipped: bool
) -> None:
    path = tmp_path / "weights.pth"
    save(content, path, zipped=zipped)
    with pytest.raises(WeightsError, match=f"more than tensors.*run code .*{named}") as error:
        read_weights(path)
    assert "weights_only" not in str(error.value)  # torch's advice to load it all the same


@pytest.mark.parametrize(
    "dropped",
    [
        "output_blocks.0.0.in_layers.0.weight",  # IndexError in ComfyUI
        "input_blocks.1.0.in_layers.0.weight",  # RuntimeError
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",  # KeyError
    ],
)
def test_a_checkpoint_too_incomplete_for_comfyui_is_named(
    pack: SimpleNamespace, nano: Path, dropped: str
) -> None:
    tensors = read_weights(nano).tensors
    del tensors[UNET + dropped]
    with pytest.raises(WeightsError, match=r"^a\.ckpt: .* is incomplete.*merge it again"):
        pack.loader_nodes._load_base(tensors, "a.ckpt")


def test_too_little_memory_is_not_the_files_fault(
    pack: SimpleNamespace, base: StateDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.sd

    def full(*_args: Any, **_settings: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(comfy.sd, "load_state_dict_guess_config", full)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        pack.loader_nodes._load_base(dict(base), "a.ckpt")


def test_what_holds_no_named_tensors_is_no_model(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(1), "a": "text"}, tmp_path / "numbers.pth")
    assert read_weights(tmp_path / "numbers.pth").kind is Kind.UNKNOWN


def test_weight_files_have_the_permissions_of_other_files(tmp_path: Path) -> None:
    """safetensors makes them its owner's alone; a ComfyUI of another account must read them."""
    write_weights(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {})
    (tmp_path / "b").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
