"""Datasets made in batches: the same images, each mask encoded once, constant cost of saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from siamese_diffusion.benchmarks.measure import TensorMemory
from siamese_diffusion.common import prompt_jsonl
from siamese_diffusion.common.pictures import read_palette_mask
from support.workflow_prompts import write_mask
from torch import Tensor

pytest_plugins = ["support.comfy_inside"]

MakeWork = Callable[..., Any]


@pytest.fixture
def make_work(
    pack: SimpleNamespace, model: Any, control: Any, inference: None, tmp_path: Path
) -> MakeWork:
    """A run on the small model; what it decodes depends on every latent of an image alone."""

    def decode(latents: Tensor) -> Tensor:
        colours = latents.mean((1, 2, 3)).sigmoid()
        return colours.view(-1, 1, 1, 1) + torch.zeros(len(latents), 32, 32, 3)

    def make(name: str, batch_size: int, sampler: str = "ddim", steps: int = 2) -> Any:
        scheduler = "ddim_published" if sampler == "ddim" else "normal"
        prompts = [[[torch.ones(1, 77, 768), {}]] for _ in range(2)]
        return pack.synthesize.Work(
            pairs=pack.pair_folder.PairFolder(tmp_path / name),
            sources=pack.sampling.Sources(model, *prompts, control),
            vae=SimpleNamespace(decode=decode),
            size=(0, 0),
            settings=pack.sampling.Settings(steps, 2.0, sampler, scheduler, seed=0),
            prompt="a",
            batch_size=batch_size,
        )

    return make


@pytest.fixture
def planned(pack: SimpleNamespace, tmp_path: Path) -> list[Any]:
    """Two images of each of three masks."""
    masks = {}
    for number in range(3):
        masks[f"m{number}"] = tmp_path / f"m{number}.png"
        write_mask(masks[f"m{number}"], (slice(0, 8 + 8 * number), slice(0, 16)), 32, 32)
    plan: list[Any] = pack.synthesize.plan(masks, 2)
    return plan


def latents_by_name(work: Any, planned: list[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Name -> latents (4, h, w)."""
    from siamese_diffusion.nodes import synthesize

    found: dict[str, Tensor] = {}
    images = synthesize.Work._images

    def kept(self: Any, batch: list[Any], progress: Any) -> Tensor:
        result = images(self, batch, progress)
        decoded = seen.pop()
        found.update(zip((item.name for item, _ in batch), decoded, strict=True))
        return result

    seen: list[Tensor] = []
    decode = work.vae.decode

    def remember(latents: Tensor) -> Tensor:
        seen.append(latents)
        return decode(latents)

    work.vae.decode = remember
    with monkeypatch.context() as patched:
        patched.setattr(synthesize.Work, "_images", kept)
        list(work.run(planned))
    return found


def test_images_do_not_depend_on_the_batch(
    make_work: MakeWork, planned: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = latents_by_name(make_work("one", 1), planned, monkeypatch)
    together = latents_by_name(make_work("four", 4), planned, monkeypatch)
    assert alone.keys() == together.keys() == {item.name for item in planned}
    for name, latents in alone.items():
        assert torch.allclose(latents, together[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.slow
def test_no_sampler_that_takes_batches_makes_images_that_depend_on_them(
    make_work: MakeWork, pack: SimpleNamespace, planned: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {name for name in pack.sampling.sampler_names() if pack.sampling.samples_alone(name)}
    assert {"euler_ancestral", "dpmpp_2m_sde", "lcm", "dpm_adaptive"} <= alone
    assert not {"ddim", "euler", "dpmpp_2m", "uni_pc"} & alone
    for sampler in {*pack.sampling.sampler_names()} - alone:
        one = latents_by_name(make_work(f"{sampler} 1", 1, sampler), planned[:2], monkeypatch)
        both = latents_by_name(make_work(f"{sampler} 2", 2, sampler), planned[:2], monkeypatch)
        for name, latents in one.items():
            error = (latents - both[name]).norm() / latents.norm()
            assert error < 1e-3, (sampler, name)


def test_a_mask_is_encoded_once_however_many_images_it_has(
    make_work: MakeWork, planned: list[Any], control: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = control.control_model.input_hint_block
    encoded: list[int] = []
    encode = block.encode

    def count(hint: Tensor) -> Tensor:
        encoded.append(len(hint))
        return encode(hint)

    monkeypatch.setattr(block, "encode", count)
    list(make_work("made", 4).run(planned))
    assert sum(encoded) == 3


def test_hints_are_encoded_in_chunks_whose_memory_is_announced(
    pack: SimpleNamespace, control: Any, inference: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack.control, "ENCODING_PIXELS", 2 * 64 * 64)
    control.cond_hint_original = torch.rand(5, 3, 64, 64).round()
    block = control.control_model.input_hint_block
    sizes: list[int] = []
    encode = block.encode

    def count(hint: Tensor) -> Tensor:
        sizes.append(len(hint))
        return encode(hint)

    monkeypatch.setattr(block, "encode", count)
    others = pack.control.comfy.controlnet.ControlNet.inference_memory_requirements(
        control, torch.float32
    )
    announced = control.inference_memory_requirements(torch.float32) - others
    with TensorMemory(control.control_model) as memory:
        found = control._encode(torch.zeros(5, 4, 8, 8))
    assert sizes == [2, 2, 1]
    assert found.shape == (5, 320, 8, 8)
    result = found.numel() * 4 + control.cond_hint_original.numel() * 4
    assert 0.5 * announced < memory.peak - result <= announced


def test_saving_takes_no_longer_the_more_pairs_there_are(
    pack: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted: looks at files, and lines read. A list that others have changed is read again."""
    looks = 0
    exists, parse = Path.exists, prompt_jsonl.parse_line
    lines = 0

    def looked(path: Path) -> bool:
        nonlocal looks
        looks += 1
        return exists(path)

    def parsed(line: str) -> Any:
        nonlocal lines
        lines += 1
        return parse(line)

    monkeypatch.setattr(Path, "exists", looked)
    monkeypatch.setattr(pack.pair_folder, "parse_line", parsed)
    image, mask, counts = torch.zeros(8, 8, 3), torch.ones(1, 8, 8), []
    for _ in range(30):
        looks = 0
        pairs = pack.pair_folder.PairFolder(tmp_path)
        pairs.write(pairs.free_name("pair"), image, mask, "a")
        counts.append(looks)
    assert max(counts[2:]) <= counts[2]
    assert lines == 0
    prompt_jsonl.append_entry(tmp_path / "prompt.jsonl", prompt_jsonl.Entry("m", "i", "p"))
    pack.pair_folder.PairFolder(tmp_path)
    assert lines == 31


def test_palette_masks_are_read_and_saved_in_colour(
    make_work: MakeWork, pack: SimpleNamespace, control: Any, tmp_path: Path
) -> None:
    colours = np.zeros((32, 32, 3), np.uint8)
    colours[8:20, 8:20, 1] = 128
    Image.fromarray(colours).save(tmp_path / "green.png")
    control.control_model.mask_classes = {"#000000": "background", "#008000": "polyp"}
    planned = pack.synthesize.plan({"green": tmp_path / "green.png"}, 1)
    list(make_work("made", 1).run(planned))
    saved = read_palette_mask(tmp_path / "made" / "masks" / "green_1.png")
    assert np.array_equal(saved, colours)
    Image.fromarray(colours + colours // 2).save(tmp_path / "bright.png")
    other = pack.synthesize.plan({"bright": tmp_path / "bright.png"}, 1)
    with pytest.raises(ValueError, match=r"bright.png: has colours .* not trained on: #00c000"):
        list(make_work("made", 1).run(other))
