"""sd-scripts as training host, on a real checkout: the same losses, files and meanings."""

from __future__ import annotations

import logging
import random
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from sd_scripts_base import SD1, build_version_two
from siamese_diffusion.models.metadata import read_metadata
from siamese_diffusion.models.weights import read_weights, write_weights
from siamese_diffusion.tools.comfy_host import ComfyHost
from siamese_diffusion.training.checkpoints import RunFolder
from siamese_diffusion.training.framing import Framing, bucket_sizes
from siamese_diffusion.training.host import BaseModel, Host
from siamese_diffusion.training.hosts import choose_host
from siamese_diffusion.training.networks import SiameseNetworks, new_controlnet
from siamese_diffusion.training.objective import Batch
from siamese_diffusion.training.options import TrainConfig
from siamese_diffusion.training.sd_scripts import Library, build_parser
from siamese_diffusion.training.sd_scripts_flags import HOST_FLAGS, REFUSED
from siamese_diffusion.training.sd_scripts_host import folder_hash
from siamese_diffusion.training.single_file import load_base_model
from siamese_diffusion.training.train_siamese import main
from small_datasets import config
from small_runs import command, losses
from torch import Tensor, nn
from workflow_prompts import Prompt, bundle_prompt, image

pytest_plugins = ["sd_scripts_fixtures"]
CAPTIONS = ["a polyp, (small:1.2)", "", "word " * 120]


def make(sd_scripts: Path, folder: Path, base: Path, **flags: object) -> tuple[Host, TrainConfig]:
    options = {
        key: flags.pop(key)
        for key in list(flags)
        if key not in {item.name for item in fields(TrainConfig)}
    }
    settings = config(folder, sd_scripts=sd_scripts, host_options=options, **flags)
    object.__setattr__(settings, "pretrained_model_name_or_path", base)
    return choose_host(settings), settings


def load(sd_scripts: Path, folder: Path, base: Path, **flags: object) -> BaseModel:
    host, settings = make(sd_scripts, folder, base, **flags)
    return host.load_base_model(settings, Accelerator())


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


def test_a_run_continues_on_the_other_host(
    runs: dict[str, Path],
    sd_scripts: Path,
    sd_scripts_checkpoint: Path,
    pairs: Path,
    tmp_path: Path,
) -> None:
    flags = ["--max_train_steps=5", "--save_every_n_steps=3"]
    run = command(sd_scripts_checkpoint, pairs, tmp_path, *flags)
    assert main([*run, "--host=standalone"]) == 0
    (tmp_path / "siamese.safetensors").unlink()
    assert main([*run, f"--sd_scripts={sd_scripts}"]) == 0
    expected = read_weights(runs["standalone"] / "siamese.safetensors").tensors
    found = read_weights(tmp_path / "siamese.safetensors").tensors
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


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


def test_a_pickle_is_not_given_to_sd_scripts(sd_scripts: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "base.ckpt")
    with pytest.raises(ValueError, match="can run code"):
        load(sd_scripts, tmp_path, tmp_path / "base.ckpt")


# Its options


def batch(count: int = 64) -> Batch:
    values = torch.Generator().manual_seed(0)
    latents = torch.randn(count, 4, 8, 8, generator=values)
    return Batch(
        latents=latents,
        noise=torch.randn(latents.shape, generator=values),
        timesteps=torch.arange(count),
        text=torch.zeros(count, 77, 8),
        mask=torch.zeros(count, 1, 64, 64),
        image=torch.zeros(count, 3, 64, 64),
    )


def test_noise_options_depend_on_seed_and_step_alone(sd_scripts: Path, tmp_path: Path) -> None:
    whole = batch()
    plain, _ = make(sd_scripts, tmp_path, tmp_path)
    assert plain.vary(whole, 1, 2) is whole
    host, _ = make(sd_scripts, tmp_path, tmp_path, noise_offset=2.0, multires_noise_iterations=2)
    torch.manual_seed(5)
    random.seed(5)
    first = host.vary(whole, 1, 2)
    after = torch.rand(1), random.random()
    torch.manual_seed(5)
    random.seed(5)
    assert (torch.rand(1), random.random()) == after  # the global generators are as they were
    again, other = host.vary(whole, 1, 2), host.vary(whole, 1, 3)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.noise, other.noise)
    # Noise offset: the mean of a channel has a variance of its own, 2 squared.
    offset, _ = make(sd_scripts, tmp_path, tmp_path, noise_offset=2.0)
    means = offset.vary(whole, 1, 2).noise.mean((2, 3))
    assert 1.6 < means.std() < 2.4
    assert whole.noise.mean((2, 3)).std() < 0.2


def test_the_timestep_range(sd_scripts: Path, tmp_path: Path) -> None:
    host, _ = make(sd_scripts, tmp_path, tmp_path, min_timestep=100, max_timestep=110)
    timesteps = torch.cat([host.vary(batch(), 0, step).timesteps for step in range(4)])
    assert set(timesteps.tolist()) == set(range(100, 110))


def closed_form_snr(timesteps: Tensor) -> Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0)[timesteps]
    return signal / (1 - signal)


@pytest.mark.parametrize("v_parameterization", [False, True])
def test_min_snr_weights_the_loss(
    v_parameterization: bool, sd_scripts: Path, tmp_path: Path
) -> None:
    timesteps = torch.tensor([0, 10, 300, 700, 999])
    plain, _ = make(sd_scripts, tmp_path, tmp_path)
    assert plain.loss_weight(timesteps) is None
    host, _ = make(
        sd_scripts, tmp_path, tmp_path, min_snr_gamma=5.0, v_parameterization=v_parameterization
    )
    snr = closed_form_snr(timesteps)
    expected = snr.clamp(max=5) / (snr + v_parameterization)
    weight = host.loss_weight(timesteps)
    assert weight is not None
    torch.testing.assert_close(weight.double(), expected, rtol=1e-3, atol=1e-5)


def test_options_that_do_not_go_together_are_refused(
    sd_scripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["--pretrained_model_name_or_path=a", "--train_data=b", "--output_dir=c"]
    flags = ["--adaptive_noise_scale=0.1", f"--sd_scripts={sd_scripts}"]
    assert main([*needed, *flags]) == 2
    message = capsys.readouterr().err
    assert "adaptive_noise_scale requires noise_offset" in message
    assert message.isascii()


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


def test_every_flag_of_its_is_the_same_taken_or_refused(library: Library) -> None:
    theirs = {action.dest for action in build_parser(library)._actions}
    theirs |= {"console_log_level", "console_log_file", "console_log_simple"}
    ours = {item.name for item in fields(TrainConfig)} | {"config_file"}
    assert theirs - ours - HOST_FLAGS - REFUSED.keys() == set()
    assert theirs >= HOST_FLAGS
    assert not HOST_FLAGS & REFUSED.keys() and not ours & (HOST_FLAGS | REFUSED.keys())


def test_importing_it_leaves_this_process_alone(library: Library, sd_scripts: Path) -> None:
    assert str(sd_scripts) not in sys.path
    assert not any(type(handler).__name__ == "RichHandler" for handler in logging.root.handlers)
    assert "pytorch_lightning" not in sys.modules or str(sd_scripts) not in str(
        sys.modules["pytorch_lightning"].__file__
    )
