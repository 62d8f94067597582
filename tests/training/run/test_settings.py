"""Flags that change how a run computes, averages or reports, against what they must equal."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from diffusers.models import attention_processor
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import StateDict, read_weights
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.data.batches import TrainingData
from siamese_diffusion.training.data.cache import DiskCache
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.standalone import Standalone
from siamese_diffusion.training.method.base_model import BaseModel
from siamese_diffusion.training.method.networks import SiameseNetworks
from siamese_diffusion.training.method.objective import Batch
from siamese_diffusion.training.run import start as session
from siamese_diffusion.training.run.gradient_update import GradientUpdate
from siamese_diffusion.training.run.metadata import config_to_publish
from siamese_diffusion.training.train_siamese import main
from support.small_datasets import CPU, SQUARE, Base, config, load, write_list, write_palette_masks
from support.small_runs import command
from support.tiny_base import SD1, write_tiny_base
from support.tiny_runs import ROUNDING, differing, flags, losses, train
from torch import nn
from torch.amp.grad_scaler import GradScaler

pytestmark = pytest.mark.slow  # whole trainings


def test_compiling_without_a_compiler_is_refused(
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert main([*flags(tiny, pairs, tmp_path / "out"), "--dry_run", "--torch_compile"]) == 2
    assert "error: --torch_compile: a C++ compiler is missing" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_compiled_networks_learn_the_same(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as ever, but run as traced: code for a CPU takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setenv("CXX", sys.executable)  # no compiler will be called
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    base = write_tiny_base(
        tmp_path / "base.safetensors", replace(SD1, channels=(32,), attention=(True,))
    )
    more = ["--train_batch_size=2", "--max_train_steps=2"]
    eager = train(base, pairs, tmp_path / "eager", *more)
    assert not graphs
    compiled = train(base, pairs, tmp_path / "compiled", *more, "--torch_compile")
    assert graphs["unique_graphs"] >= 3
    # The second loss is that of weights which the first step has changed.
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-5)
    assert differing(compiled, eager, ROUNDING) < 1e-3


def weights_by_step(folder: Path) -> list[StateDict]:
    names = ["siamese-step00000001", "siamese-step00000002", "siamese"]
    return [read_weights(folder / f"{name}.safetensors").tensors for name in names]


def test_saved_weights_are_the_moving_average(tiny: Path, pairs: Path, tmp_path: Path) -> None:
    """a_n = d a_(n-1) + (1 - d) w_n, with d = min(decay, n / (n + 9)), and a_1 = w_1."""
    more = ["--train_batch_size=2", "--save_every_n_steps=1", "--keep_last_n=9"]
    train(tiny, pairs, tmp_path / "plain", *more)
    train(tiny, pairs, tmp_path / "averaged", *more, "--ema_decay=0.2")
    weights, averages = (weights_by_step(tmp_path / name) for name in ("plain", "averaged"))
    for key, tensor in averages[2].items():
        expected = weights[0][key]
        torch.testing.assert_close(averages[0][key], expected, rtol=0, atol=1e-6)
        for step, decay in ((1, 2 / 11), (2, 0.2)):
            expected = decay * expected + (1 - decay) * weights[step][key]
            torch.testing.assert_close(averages[step][key], expected, rtol=0, atol=1e-6)
        assert not torch.equal(tensor, weights[2][key]), key


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")  # the very first step
def test_a_scaler_skips_a_step_whose_gradients_are_not_finite(tmp_path: Path) -> None:
    """As with fp16 on a GPU: too large a scale is normal, and the next one is smaller."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = GradScaler("cpu", init_scale=64.0)
    layer = nn.Linear(2, 1)
    nets = cast(SiameseNetworks, layer)
    update = GradientUpdate(config(tmp_path), Standalone(), nets, accelerator)
    before = layer.weight.detach().clone()
    update.backpropagate(layer(torch.full((1, 2), 1e38)).flatten())  # times 64 / 6: beyond float32
    assert update.reduce_and_clip_gradients() is None
    update.apply()
    assert torch.equal(layer.weight, before)
    assert accelerator.scaler.get_scale() == 32.0


def test_wandb_writes_below_the_output_folder(
    tiny: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    train(tiny, pairs, tmp_path / "out", "--log_with=wandb", "--train_batch_size=2")
    [file] = (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"loss_consistency" in file.read_bytes()
    assert not list(elsewhere.iterdir())


def test_a_tracker_that_is_not_installed_is_an_error(
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(session.TRACKERS, "wandb", lambda: False)
    for choice in ("wandb", "all"):
        assert main(command(tiny, pairs, tmp_path / "out", f"--log_with={choice}")) == 2
        assert (
            f"--log_with {choice}: wandb is missing; pip install wandb" in capsys.readouterr().err
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("optimizer", "module", "package"),
    [
        ("AdamW8bit", "bitsandbytes", "bitsandbytes"),
        ("PagedAdamW8bit", "bitsandbytes", "bitsandbytes"),
        ("Lion8bit", "bitsandbytes", "bitsandbytes"),
        ("Lion", "lion_pytorch", "lion-pytorch"),
        ("Prodigy", "prodigyopt", "prodigyopt"),
    ],
)
def test_an_optimizer_that_is_not_installed(
    optimizer: str,
    module: str,
    package: str,
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(flags(tiny, pairs, tmp_path / "out", f"--optimizer_type={optimizer}")) == 2
    message = capsys.readouterr().err
    assert f"error: --optimizer_type {optimizer}: " in message
    assert f"pip install {package}" in message


def test_xformers_that_is_not_installed(
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(attention_processor, "is_xformers_available", lambda: False)
    assert main(flags(tiny, pairs, tmp_path / "out", "--xformers")) == 2
    message = capsys.readouterr().err
    assert "error: --xformers: " in message
    assert "how to install xformers. Without the flag PyTorch's own attention is used." in message


def test_batches_are_read_ahead_and_errors_reach_the_user(
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[tuple[int, bool]] = []
    batch = TrainingData.batch

    def recorded(data: TrainingData, indices: list[int], seed: int, step: int, *more: Any) -> Batch:
        read.append((step, threading.current_thread() is threading.main_thread()))
        if step == 2:
            raise ConfigError("the disk is gone")
        return batch(data, indices, seed, step, *more)

    monkeypatch.setattr(TrainingData, "batch", recorded)
    assert main(flags(tiny, pairs, tmp_path, "--train_batch_size=2")) == 2
    assert "error: the disk is gone" in capsys.readouterr().err
    assert read == [(0, False), (1, False), (2, False)]
    assert len(losses(tmp_path)) == 2


def test_processes_share_the_encoding(tmp_path: Path) -> None:
    dataset = load(write_list(tmp_path, [(32, 32)] * 5))
    encoded = []
    for part in ((0, 2), (1, 2), (0, 1)):
        base = Base()
        data = TrainingData(dataset, SQUARE, DiskCache(tmp_path / "cache"))
        data.prepare(cast(BaseModel, base), CPU, True, part)
        encoded.append(base.autoencoder.encoded)
    assert encoded == [3, 2, 0]


def test_classes_of_palette_masks_are_recorded(tiny: Path, tmp_path: Path) -> None:
    folder = write_palette_masks(tmp_path / "data")
    more = ["--mask_mode=palette", "--recipe=concat", "--max_train_steps=1", "--train_batch_size=2"]
    train(tiny, folder / "prompt.jsonl", tmp_path / "out", *more)
    bundle = read_weights(tmp_path / "out" / "siamese.safetensors")
    classes = {"#000000": "background", "#008000": "class 1", "#800000": "class 2"}
    assert json.loads(bundle.metadata["siamese.mask_classes"]) == classes
    # Image and mask have three channels each.
    assert bundle.control()["input_hint_block.0.initial_conv.weight"].shape[1] == 6


def test_the_resolved_configuration_is_in_the_folder_and_in_the_weights(
    tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    train(tiny, pairs, tmp_path, "--recipe=concat", "--joint_control=add", "--train_batch_size=2")
    recipe = {**asdict(RECIPES["concat"]), "joint_control": "add"}
    metadata = read_weights(tmp_path / "siamese.safetensors").metadata
    in_folder = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    in_weights = json.loads(metadata["siamese.config"])
    assert json.loads(metadata["siamese.recipe"]) == recipe
    for found in (in_folder, in_weights):
        assert {name: found[name] for name in recipe} == recipe
        assert (found["seed"], found["learning_rate"]) == (42, 1e-3)
    # Weights are passed on: they say nothing about their owner's folders.
    assert str(tmp_path) not in metadata["siamese.config"]
    assert str(pairs) not in metadata["siamese.config"]


def test_the_hosts_options_are_in_the_weights_without_its_files() -> None:
    options = {"min_snr_gamma": 5.0, "lr_scheduler_args": ["T_max=9"], "vae": "/home/ada/vae.pt"}
    config = TrainConfig(
        pretrained_model_name_or_path=Path("/home/ada/base"),
        output_dir=Path("/home/ada/out"),
        host_options=options,
    )
    published = config_to_publish(config, RECIPES["published"])
    found = json.loads(published)
    assert (found["min_snr_gamma"], found["lr_scheduler_args"]) == (5.0, ["T_max=9"])
    assert found["learning_rate"] == 1e-5
    assert "ada" not in published
