"""sd-scripts as training host, on a real checkout: the same losses, files and meanings."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from siamese_diffusion.models.metadata import read_metadata
from siamese_diffusion.models.weights import WeightsError, read_weights, write_weights
from siamese_diffusion.tools.comfy_host import ComfyHost
from siamese_diffusion.training.data.framing import Framing, bucket_sizes, shrunk_size
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.sd_scripts.library import Library, build_parser, commit
from siamese_diffusion.training.hosts.sd_scripts.models import folder_hash
from siamese_diffusion.training.hosts.single_file import load_base_model
from siamese_diffusion.training.merge_bundle import merge_files
from siamese_diffusion.training.method.networks import SiameseNetworks, new_controlnet
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.train_siamese import main
from support.needs import Need
from support.processes import run
from support.sd_scripts_base import SD1, build_vae, build_version_two, load
from support.small_runs import command, losses
from support.workflow_prompts import Prompt, bundle_prompt, image
from torch import nn

pytest_plugins = ["support.sd_scripts_fixtures"]
CAPTIONS = ["a polyp, (small:1.2)", "", "word " * 120]


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# Parity of the two hosts


@pytest.fixture(scope="session")
def runs(
    sd_scripts: Path,
    sd_scripts_checkpoint: Path,
    pairs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Five steps of the published recipe on either host."""
    folder = tmp_path_factory.mktemp("parity")
    flags = {"standalone": "--host=standalone", "sd-scripts": f"--sd_scripts={sd_scripts}"}
    for name, flag in flags.items():
        out = folder / name
        assert main(command(sd_scripts_checkpoint, pairs, out, "--max_train_steps=5", flag)) == 0
    return {name: folder / name for name in flags}


def test_five_steps_have_the_same_losses(runs: dict[str, Path]) -> None:
    ours, theirs = (losses(out) for out in runs.values())
    assert len(ours) == len(theirs) == 5
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) >= 4
        assert one == pytest.approx(other, rel=1e-4)


def test_bundles_make_the_same_images_in_comfyui(
    runs: dict[str, Path], sd_scripts_checkpoint: Path, pairs: Path, host: ComfyHost
) -> None:
    shutil.copy(sd_scripts_checkpoint, host.models / "checkpoints" / "both.safetensors")
    shutil.copy(next((pairs.parent / "masks").iterdir()), host.input / "both.png")
    made = []
    for name, out in runs.items():
        bundle = host.models / "controlnet" / f"both_{name}.safetensors"
        shutil.copy(out / "siamese.safetensors", bundle)
        made.append(image(host, _prompt(bundle.name)).astype(int))
    assert np.abs(made[0] - made[1]).max() <= 2
    assert made[0].std() > 1


def _prompt(bundle: str) -> Prompt:
    prompt = bundle_prompt(steps=4)
    prompt["1"]["inputs"]["ckpt_name"] = "both.safetensors"
    prompt["2"]["inputs"]["bundle_name"] = bundle
    prompt["3"]["inputs"]["image"] = "both.png"
    return prompt


@pytest.mark.parametrize("first", ["standalone", "sd-scripts"])
def test_a_run_continues_on_the_other_host(
    first: str,
    runs: dict[str, Path],
    sd_scripts: Path,
    sd_scripts_checkpoint: Path,
    pairs: Path,
    tmp_path: Path,
) -> None:
    flags = ["--max_train_steps=5", "--save_every_n_steps=3", "--keep_last_n=9"]
    run = command(sd_scripts_checkpoint, pairs, tmp_path, *flags)
    hosts = ["--host=standalone", f"--sd_scripts={sd_scripts}"]
    if first == "sd-scripts":
        hosts.reverse()
    assert main([*run, hosts[0]]) == 0
    (tmp_path / "siamese.safetensors").unlink()
    for state in (tmp_path / "state").glob("step*"):
        if state.name != "step00000003":
            shutil.rmtree(state)
    assert main([*run, hosts[1]]) == 0
    expected = read_weights(runs["standalone"] / "siamese.safetensors").tensors
    found = read_weights(tmp_path / "siamese.safetensors").tensors
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def test_bundles_of_both_merge(
    runs: dict[str, Path], sd_scripts_checkpoint: Path, tmp_path: Path
) -> None:
    merged = []
    for name, out in runs.items():
        path = tmp_path / f"{name}.safetensors"
        merge_files(sd_scripts_checkpoint, out / "siamese.safetensors", path)
        merged.append(read_weights(path).tensors)
    first, second = merged
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=1e-6)


# Models


def test_the_same_model_from_a_file_and_from_a_diffusers_folder(
    sd_scripts: Path,
    sd_scripts_checkpoint: Path,
    parts: dict[str, nn.Module],
    tmp_path: Path,
) -> None:
    # The checkpoint is in half precision.
    halved = {name: part.half().float() for name, part in parts.items()}
    StableDiffusionPipeline(
        **halved, tokenizer=None, scheduler=DDPMScheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(tmp_path / "folder")  # fmt: skip
    single = load(sd_scripts, tmp_path, sd_scripts_checkpoint)
    folder = load(sd_scripts, tmp_path, tmp_path / "folder")
    assert single.shape == folder.shape == SD1
    for name in ("autoencoder", "text_encoder"):
        assert same(getattr(single, name).module, getattr(folder, name).module)
    assert same(single.unet, folder.unet)
    assert single.base_hash != folder.base_hash
    (changed,) = (tmp_path / "folder/unet").glob("*.safetensors")
    save_file({"changed": torch.zeros(1)}, changed)
    assert folder_hash(tmp_path / "folder") != folder.base_hash


def test_our_halves_of_the_unet_compute_what_sd_scripts_unet_does(
    library: Library, sd_scripts: Path, sd_scripts_checkpoint: Path, tmp_path: Path
) -> None:
    base = load(sd_scripts, tmp_path, sd_scripts_checkpoint)
    theirs = library.original_unet.UNet2DConditionModel(64, 8, 768, False, False)
    theirs.load_state_dict(base.unet.state_dict())
    nets = SiameseNetworks(base.unet, new_controlnet(base.unet, 3))
    noisy, times = torch.randn(2, 4, 16, 8), torch.tensor([3, 900])
    text = torch.randn(2, 77, 768)
    with torch.no_grad():
        ours = nets.decode(nets.encode(noisy, times, text), text)
        torch.testing.assert_close(ours, theirs(noisy, times, text).sample, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="session")
def version_two(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 2.x checkpoint of full size but for its UNet: too large to make often."""
    tensors = build_version_two(library)
    path = tmp_path_factory.mktemp("v2") / "base.safetensors"
    write_weights(path, tensors, {})
    return path


def test_version_two_is_read_alike(
    version_two: Path, sd_scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = load_base_model(version_two, None, True)
    theirs = load(sd_scripts, tmp_path, version_two, v_parameterization=True)
    assert theirs.prediction == "v" and theirs.shape == ours.shape
    assert theirs.shape.linear_projection
    assert same(ours.unet, theirs.unet)
    with torch.no_grad():
        for caption in CAPTIONS:
            torch.testing.assert_close(
                ours.text_encoder.encode([caption]), theirs.text_encoder.encode([caption])
            )


def test_clip_skip_and_long_captions(
    sd_scripts: Path, sd_scripts_checkpoint: Path, parts: dict[str, nn.Module], tmp_path: Path
) -> None:
    plain: Any = load(sd_scripts, tmp_path, sd_scripts_checkpoint).text_encoder
    skipping = load(sd_scripts, tmp_path, sd_scripts_checkpoint, clip_skip=2).text_encoder
    long = load(sd_scripts, tmp_path, sd_scripts_checkpoint, max_token_length=150).text_encoder
    assert len({plain.settings, skipping.settings, long.settings}) == 3  # no cache mixes them up
    module = plain.module
    with torch.no_grad():
        tokens = plain._tokens.tokenize(CAPTIONS[:1])[0].reshape(1, 77)
        output = module(tokens, output_hidden_states=True)
        expected = module.text_model.final_layer_norm(output.hidden_states[-2])
        torch.testing.assert_close(skipping.encode(CAPTIONS[:1]), expected)
        assert plain.encode(CAPTIONS).shape == (3, 77, 768)
        assert long.encode(CAPTIONS).shape == (3, 152, 768)
    with pytest.raises(ConfigError, match=r"--clip_skip is 20; .* has 12 layers"):
        load(sd_scripts, tmp_path, sd_scripts_checkpoint, clip_skip=20)


def test_a_link_into_a_cache_is_loaded(
    sd_scripts: Path, sd_scripts_checkpoint: Path, tmp_path: Path
) -> None:
    """As the Hugging Face cache has them: the file itself has no extension."""
    (tmp_path / "blob").symlink_to(sd_scripts_checkpoint)
    (tmp_path / "base.safetensors").symlink_to(tmp_path / "blob")
    linked = load(sd_scripts, tmp_path, tmp_path / "base.safetensors")
    assert same(linked.unet, load(sd_scripts, tmp_path, sd_scripts_checkpoint).unet)


def test_another_autoencoder(
    library: Library, sd_scripts: Path, sd_scripts_checkpoint: Path, tmp_path: Path
) -> None:
    vae = build_vae()
    save_file(
        library.model_util.convert_vae_state_dict(vae.state_dict()), tmp_path / "v.safetensors"
    )
    found = load(sd_scripts, tmp_path, sd_scripts_checkpoint, vae=str(tmp_path / "v.safetensors"))
    assert same(found.autoencoder.module, vae)
    torch.save({"state_dict": {}}, tmp_path / "v.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (
        ("missing.safetensors", "no such file"),
        ("v.pt", "can run code"),
        ("other.safetensors", "sd-scripts cannot load it"),
    ):
        with pytest.raises(WeightsError, match=f"{name}: .*{message}"):
            load(sd_scripts, tmp_path, sd_scripts_checkpoint, vae=str(tmp_path / name))


def test_what_is_no_base_model(sd_scripts: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "base.ckpt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "sdxl/unet").mkdir(parents=True)
    (tmp_path / "sdxl/unet/config.json").write_text('{"cross_attention_dim": 2048}', "utf-8")
    for name, message in (
        ("base.ckpt", "can run code"),
        ("folder", "not a Stable Diffusion"),
        ("sdxl", r"width 2048 \(2048: SDXL\); supported are Stable Diffusion 1.x"),
    ):
        with pytest.raises(WeightsError, match=message):
            load(sd_scripts, tmp_path, tmp_path / name)


# Its options


def test_weighted_losses_train_but_are_shown_unweighted(
    runs: dict[str, Path],
    sd_scripts: Path,
    sd_scripts_checkpoint: Path,
    pairs: Path,
    tmp_path: Path,
) -> None:
    flags = [
        "--max_train_steps=5", "--min_snr_gamma=1", "--metadata_author=Ada",
        "--metadata_title=Polyps", f"--sd_scripts={sd_scripts}",
    ]  # fmt: skip
    assert main(command(sd_scripts_checkpoint, pairs, tmp_path, *flags)) == 0
    weighted, plain = losses(tmp_path), losses(runs["sd-scripts"])
    assert weighted[0] == plain[0]
    assert weighted[2] != plain[2]
    strings = read_weights(tmp_path / "siamese.safetensors").metadata
    assert (strings["modelspec.author"], strings["modelspec.title"]) == ("Ada", "Polyps")
    metadata = read_metadata(strings, "bundle")
    assert metadata is not None and metadata.step == 5


# What its files and flags mean


def test_checkpoints_have_its_names(library: Library, sd_scripts: Path, tmp_path: Path) -> None:
    args = build_parser(library).parse_args(["--output_name=polyps"])
    folder = RunFolder(tmp_path, "polyps")
    train_util = library.train_util
    assert folder.weights(1234).name == train_util.get_step_ckpt_name(args, ".safetensors", 1234)
    assert folder.weights().name == train_util.get_last_ckpt_name(args, ".safetensors")


@pytest.mark.parametrize("size", [(384, 384), (512, 384), (512, 512), (400, 520)])
@pytest.mark.parametrize(("smallest", "largest", "step"), [(256, 1024, 64), (250, 1000, 32)])
def test_buckets_are_its_buckets(
    size: tuple[int, int], smallest: int, largest: int, step: int, library: Library, tmp_path: Path
) -> None:
    sizes = bucket_sizes(size, smallest, largest, step)
    dataset = library.train_util.BaseDataset
    limits = dataset.adjust_min_max_bucket_reso_by_steps(None, size, smallest, largest, step)
    manager = library.train_util.BucketManager(False, size, *limits, step)
    manager.make_buckets()
    assert list(sizes) == manager.predefined_resos
    framing, values = Framing(size, sizes), random.Random(0)
    for _ in range(200):
        picture = values.randint(100, 2000), values.randint(100, 2000)
        assert framing.training_size(picture) == manager.select_bucket(*picture)[0]


@pytest.mark.parametrize("size", [(384, 384), (512, 384), (64, 64)])
@pytest.mark.parametrize("step", [64, 32, 8])
def test_images_that_are_not_enlarged_have_its_sizes(
    size: tuple[int, int], step: int, library: Library
) -> None:
    framing, values = Framing(size, no_upscale=step), random.Random(0)
    manager = library.train_util.BucketManager(True, size, None, None, step)
    for _ in range(200):
        picture = values.randint(100, 2000), values.randint(100, 2000)
        if max(picture) / min(picture) > 3 and step == 64:
            continue  # it divides by zero where a side is rounded to nothing
        expected, resized, _ = manager.select_bucket(*picture)
        assert framing.training_size(picture) == expected
        assert shrunk_size(picture, size[0] * size[1], step) == resized


def test_importing_it_leaves_a_process_alone(sd_scripts: Path) -> None:
    """In a process of its own: pytest has given this one's root logger handlers."""
    code = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from siamese_diffusion.training.hosts.sd_scripts import library\n"
        "before = [*sys.path], logging.root.level, [*logging.root.handlers]\n"
        "library.build_parser(library.load_library(Path(sys.argv[1])))\n"
        "assert before == (sys.path, logging.root.level, logging.root.handlers)\n"
        "stub = sys.modules.get('pytorch_lightning')\n"
        "assert stub is None or sys.argv[1] not in stub.__file__\n"
    )
    command = [sys.executable, "-c", code, str(sd_scripts)]
    result = run(command)
    assert result.returncode == 0, result.stderr


def test_its_commit_is_recorded(sd_scripts: Path) -> None:
    git = ["git", "-C", str(sd_scripts), "rev-parse", "HEAD"]
    result = subprocess.run(git, capture_output=True, text=True, check=False)
    if result.returncode:
        Need.SD_SCRIPTS_CLONE.skip()
    assert commit(sd_scripts) == result.stdout[:8]
