"""Settings of the trainer against what they must equal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from siamese_diffusion.models.kinds import DECODER, UNET
from siamese_diffusion.models.weights import StateDict, read_weights
from siamese_diffusion.training.train_siamese import main
from support.processes import launch_two
from support.small_runs import metrics
from support.tiny_base import SD2, write_tiny_base
from support.tiny_runs import ROUNDING, differing, flags, losses, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from transformers import Adafactor

pytestmark = pytest.mark.slow  # whole trainings


def test_accumulation_equals_a_larger_batch(
    tiny: Path, pairs: Path, plain: StateDict, tmp_path: Path
) -> None:
    found = train(tiny, pairs, tmp_path, "--train_batch_size=2", "--gradient_accumulation_steps=2")
    assert differing(found, plain, ROUNDING) < 1e-3


# Rounding of a bfloat16 (8 bits), for the few in a row that do not cancel out.
BF16 = 4 * 2**-8
FIRST_STEP = ["--train_batch_size=2", "--max_train_steps=1"]


def launch(arguments: list[str]) -> str:
    """Two processes, on CPUs instead of GPUs and without MPI; what they say."""
    return launch_two(arguments, {"ACCELERATE_USE_CPU": "true"})


@pytest.mark.slow
def test_two_processes_equal_one_also_when_resumed(
    tiny: Path,
    pairs: Path,
    plain: StateDict,
    plain_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = flags(tiny, pairs, out, "--train_batch_size=2", "--save_every_n_steps=2")
    messages = launch(arguments)
    assert messages.count("Host: standalone") == 1
    assert_same_run(out, plain, plain_folder)
    # As if it had been killed in the last step.
    (out / "siamese.safetensors").unlink()
    shutil.rmtree(out / "state/step00000003")
    assert main(arguments) == 2
    assert "--num_processes was 2, is 1" in capsys.readouterr().err
    assert f"Resuming from {out / 'state/step00000002'}" in launch(arguments)
    assert_same_run(out, plain, plain_folder)


@pytest.mark.slow
def test_two_processes_share_a_cache_on_disk(
    tiny: Path, pairs: Path, plain: StateDict, plain_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    launch(flags(tiny, pairs, out, "--train_batch_size=2", "--cache_latents_to_disk"))
    assert_same_run(out, plain, plain_folder)


def assert_same_run(out: Path, plain: StateDict, plain_folder: Path) -> None:
    """The losses of both processes' samples: those of the one process with the same batches."""
    found = read_weights(out / "siamese.safetensors").tensors
    assert differing(found, plain, ROUNDING) < 1e-3
    assert losses(out) == pytest.approx(losses(plain_folder), rel=1e-5)


def test_checkpointing_and_layout_change_nothing(
    tiny: Path, pairs: Path, plain: StateDict, tmp_path: Path
) -> None:
    found = train(
        tiny, pairs, tmp_path, "--train_batch_size=4", "--gradient_checkpointing",
        "--channels_last",
    )  # fmt: skip
    assert differing(found, plain, ROUNDING) < 1e-3


def test_half_precision_gives_nearly_the_same_losses(
    tiny: Path, pairs: Path, plain_folder: Path, tmp_path: Path
) -> None:
    """Same weights, batch and noise at the first step, so that only rounding is between them."""
    train(tiny, pairs, tmp_path, "--train_batch_size=4", "--mixed_precision=bf16")
    half, full = (metrics(folder)[0] for folder in (tmp_path, plain_folder))
    terms = [name for name in full if name.startswith("loss")]
    assert {"loss", "loss_mask", "loss_image"} <= set(terms)
    for name in terms:
        assert half[name] == pytest.approx(full[name], rel=BF16, abs=BF16), name
    assert half["loss_mask"] != full["loss_mask"], "computed in float32"


@pytest.mark.parametrize("recipe", ["concat", "adaptive", "mask_only"])
def test_every_recipe_trains(recipe: str, tiny: Path, pairs: Path, tmp_path: Path) -> None:
    train(tiny, pairs, tmp_path, "--train_batch_size=2", f"--recipe={recipe}")
    bundle = read_weights(tmp_path / "siamese.safetensors")
    channels = bundle.control()["input_hint_block.0.initial_conv.weight"].shape[1]
    assert channels == (4 if recipe == "concat" else 3)
    terms = metrics(tmp_path)[-1]
    assert ("loss_consistency" in terms) == (recipe != "mask_only")


@pytest.fixture(scope="module")
def first_gradients(
    tiny: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StateDict, StateDict]:
    """The decoder before the first step, and its gradients there: SGD moves by just those."""
    before = {k: v for k, v in read_weights(tiny).tensors.items() if k.startswith(DECODER)}
    out = tmp_path_factory.mktemp("sgd")
    rate = 1000  # so large that the gradients are not lost in the rounding of the weights
    more = ["--optimizer_type=torch.optim.SGD", f"--learning_rate={rate}", *FIRST_STEP]
    after = train(tiny, pairs, out, *more)
    return before, {key: (value - after[key]) / rate for key, value in before.items()}


@pytest.mark.parametrize(
    ("optimizer", "arguments", "reference"),
    [
        ("Adafactor", [], partial(Adafactor, relative_step=False, scale_parameter=False)),
        ("SGDNesterov", [], partial(SGD, momentum=0.9, nesterov=True)),
        ("AdamW", ["weight_decay=0.5"], partial(AdamW, weight_decay=0.5)),
        ("torch.optim.RMSprop", ["alpha=0.5"], partial(RMSprop, alpha=0.5)),
    ],
)
def test_a_step_is_that_of_the_named_optimizer(
    optimizer: str,
    arguments: list[str],
    reference: Callable[..., Optimizer],
    first_gradients: tuple[StateDict, StateDict],
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
) -> None:
    more = ["--optimizer_args", *arguments] if arguments else []
    found = train(
        tiny, pairs, tmp_path, f"--optimizer_type={optimizer}", *more, *FIRST_STEP,
    )  # fmt: skip
    before, gradients = first_gradients
    expected = {key: nn.Parameter(value.clone()) for key, value in before.items()}
    for key, parameter in expected.items():
        parameter.grad = gradients[key].clone()
    reference([*expected.values()], lr=1e-3).step()
    decoder = {key: found[key] for key in expected}
    after = {key: value.detach() for key, value in expected.items()}
    step = torch.cat([(after[key] - before[key]).flatten() for key in after]).square().mean().sqrt()
    # Some optimizers make whole steps of the smallest gradients, whose rounding then shows.
    assert differing(decoder, after, 0.05 * step.item()) < 0.01


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--optimizer_type=Nonsense"], "--optimizer_type is 'Nonsense'; known are adamw"),
        (["--optimizer_type=nowhere.Optimizer"], "pip install nowhere"),
        (["--optimizer_args", "weight_decay:0.1"], "not key=value"),
        (["--optimizer_args", "speed=1"], "AdamW says"),
        (["--resolution=100"], "--resolution is '100'; expected SIZE or WIDTH,HEIGHT"),
        (["--max_train_steps=0"], "--max_train_steps is 0; it must be at least 1"),
        (["--xformers"], "--xformers: "),
        (["--config_file=missing.toml"], "--config_file missing.toml"),
    ],
)
def test_bad_flags(
    more: list[str],
    expected: str,
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(flags(tiny, pairs, out, *more)) == 2
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_a_config_file_gives_flags_and_the_command_line_wins(
    tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        f"pretrained_model_name_or_path = '{tiny}'\n[data]\ntrain_data = '{pairs}'\n"
        "resolution = '64'\n[training]\nmax_train_steps = 1\ntrain_batch_size = 2\n"
        "optimizer_args = ['weight_decay=0.1']\n[output]\nsample_steps = 1\nseed = 3\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    assert main([f"--config_file={file}", f"--output_dir={out}", "--seed=5"]) == 0
    config = json.loads((out / "config.json").read_text())
    assert (config["seed"], config["max_train_steps"]) == (5, 1)
    assert config["optimizer_args"] == ["weight_decay=0.1"]


def test_wrong_entries_of_a_config_file_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("learing_rate = 1e-5\nseed = 'x'\nxformers = 'yes'\n", encoding="utf-8")
    assert main([f"--config_file={file}"]) == 2
    message = capsys.readouterr().err
    for expected in ("learing_rate is not a flag", "seed = 'x'", "xformers = 'yes'"):
        assert expected in message


def test_stable_diffusion_2_with_v_prediction(pairs: Path, tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "sd2.safetensors", SD2)
    for name, more in (("v", ["--v_parameterization"]), ("noise", [])):
        train(base, pairs, tmp_path / name, *FIRST_STEP, *more)
    bundle = read_weights(tmp_path / "v" / "siamese.safetensors")
    assert bundle.metadata["modelspec.prediction_type"] == "v"
    text_key = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert bundle.control()[text_key].shape == (SD2.channels[0], 1024)
    # The same network on the same noise, measured against another target.
    v, noise = (losses(tmp_path / name)[0] for name in ("v", "noise"))
    assert v != pytest.approx(noise, rel=1e-3)


def test_a_dry_run_describes_and_writes_nothing(
    tiny: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        assert main(flags(tiny, pairs, out, "--dry_run", "--validation_split=0.34")) == 0
    text = caplog.text
    for expected in ("pairs", "validation pairs", "trained", "GiB", "lesion", "coverage"):
        assert expected in text
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "copies", "named"),
    [
        ([], 4, "weights, gradients, AdamW; activations come on top"),
        (["--ema_decay=0.9"], 5, "weights, gradients, EMA, AdamW; activations come"),
        (["--optimizer_type=SGDNesterov"], 3, "weights, gradients, SGDNesterov; activations come"),
        (
            ["--optimizer_type=torch.optim.RAdam"],
            2,
            "weights, gradients; activations and the state of torch.optim.RAdam come on top",
        ),
    ],
)
def test_a_dry_run_counts_what_it_names(
    more: list[str],
    copies: int,
    named: str,
    tiny: Path,
    pairs: Path,
    plain: StateDict,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Copies of what is trained, in float32, beside the UNet's frozen encoder."""
    with caplog.at_level("INFO"):
        assert main(flags(tiny, pairs, tmp_path / "out", "--dry_run", *more)) == 0
    unet = {k: v for k, v in read_weights(tiny).tensors.items() if k.startswith(UNET)}
    frozen = sum(v.numel() for k, v in unet.items() if not k.startswith(DECODER))
    count = copies * sum(v.numel() for v in plain.values()) + frozen
    assert f"{count * 4 / 2**30:.2f} GiB for {named}" in caplog.text


@pytest.mark.parametrize(("rank", "shown"), [(None, True), ("0", True), ("1", False)])
def test_the_host_is_named_first(
    rank: str | None,
    shown: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before the data is looked at, which may be large; by one of several processes."""
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with caplog.at_level("INFO"):
        assert main(flags(tmp_path / "none", tmp_path / "none.jsonl", tmp_path / "out")) == 2
    assert ("Host: standalone" in caplog.messages) == shown


def test_the_progress_bar_shows_every_term(
    tiny: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny, pairs, tmp_path, "--train_batch_size=2")
    shown = capsys.readouterr().err
    lines = metrics(tmp_path)
    for line in lines:
        terms = {name: value for name, value in line.items() if name.startswith("loss")}
        assert len(terms) == (5 if line is lines[-1] else 4)
        text = [f"{name.removeprefix('loss_')}={value:.4f}" for name, value in terms.items()]
        assert ", ".join(text) in shown


def test_the_validation_loss_is_logged_and_repeatable(
    tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    more = ["--validation_split=0.34", "--validate_every_n_steps=1", "--train_batch_size=2"]
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        train(tiny, pairs, folder, *more)
        lines = [line for line in metrics(folder) if "validation_mask" in line]
        assert all([*line][1] == "validation_mask" for line in lines)
        found.append(lines)
    assert found[0] == found[1]
    assert [line["step"] for line in found[0]] == [1, 2, 3]


def test_validation_losses_depend_on_the_weights_alone(
    tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    """Weights that do not change, at steps before and after a third, where a loss is added."""
    more = ["--validation_split=0.67", "--validate_every_n_steps=1", "--train_batch_size=2"]
    train(tiny, pairs, tmp_path, *more, "--learning_rate=1e-12")
    lines = [line for line in metrics(tmp_path) if "validation_mask" in line]
    names = {f"validation_{name}" for name in ("mask", "image", "consistency", "augmentation")}
    for line in lines:
        step = line.pop("step")
        assert line.keys() == names
        assert line == pytest.approx(lines[0], rel=1e-6), step


def test_tensorboard_gets_losses_and_previews(tiny: Path, pairs: Path, tmp_path: Path) -> None:
    train(tiny, pairs, tmp_path, "--log_with=tensorboard", "--train_batch_size=2")
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [event.step for event in events.Scalars("loss_mask")] == [1, 2, 3]
    assert [event.step for event in events.Images("preview")] == [3]
