"""States from strangers, or changed by hand: refused before training, and nothing is taken over."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.run import metrics
from siamese_diffusion.training.run.folder import RunFolder
from siamese_diffusion.training.run.gradient_update import GradientUpdate
from siamese_diffusion.training.run.loss_curves import draw_losses
from siamese_diffusion.training.run.optimizer_state import check_optimizer, with_own_settings
from siamese_diffusion.training.run.states import (
    DamagedStateError,
    read_state,
    write_facts,
    write_optimizer,
)
from torch import nn
from torch.amp.grad_scaler import GradScaler
from transformers.optimization import Adafactor

NAN, INF = float("nan"), float("inf")
STEPS = 3
Saved = dict[str, Any]
Damage = Callable[[Saved], object]


def updated() -> tuple[Any, Saved]:
    """Two weights after three steps, and what a state keeps of their optimizer."""
    weights = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4))]
    update: Any = GradientUpdate.__new__(GradientUpdate)
    update.accelerator = SimpleNamespace(scaler=None)
    update.optimizer = torch.optim.AdamW(weights, lr=1e-3)
    update.scheduler = torch.optim.lr_scheduler.LambdaLR(update.optimizer, lambda step: 0.9**step)
    for _ in range(STEPS):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        update.optimizer.step()
        update.scheduler.step()
    return update, {
        "optimizer": update.optimizer.state_dict(),
        "scheduler": update.scheduler.state_dict(),
    }


def moment(change: Callable[[torch.Tensor], object], name: str = "exp_avg") -> Damage:
    def damage(saved: Saved) -> None:
        values = saved["optimizer"]["state"][0]
        values[name] = change(values[name])

    return damage


def group(**values: object) -> Damage:
    return lambda saved: saved["optimizer"]["param_groups"][0].update(values)


def without(name: str) -> Damage:
    return lambda saved: saved["optimizer"]["param_groups"][0].pop(name)


def schedule(**values: object) -> Damage:
    return lambda saved: saved["scheduler"].update(values)


def optimizer(**values: object) -> Damage:
    return lambda saved: saved["optimizer"].update(values)


DAMAGES: dict[str, Damage] = {
    "NaN": moment(lambda t: t * NAN),
    "infinite": moment(lambda t: t + INF),
    "NaN squares": moment(lambda t: t * NAN, "exp_avg_sq"),
    "negative squares": moment(lambda t: -t, "exp_avg_sq"),
    "another shape": moment(lambda t: t[:1]),
    "flat": moment(lambda t: t.flatten()),
    "whole numbers": moment(lambda t: t.int()),
    "complex": moment(lambda t: t.to(torch.complex64)),
    "nothing": moment(lambda _: None),
    "text": moment(lambda _: "x"),
    "sparse": moment(lambda t: t.to_sparse()),
    "without values": moment(lambda t: t.to("meta")),
    "updates NaN": moment(lambda t: t * NAN, "step"),
    "updates negative": moment(lambda t: -t, "step"),
    "updates too many": moment(lambda t: t * 100, "step"),
    "updates in a list": moment(lambda _: torch.ones(3), "step"),
    "updates in words": moment(lambda _: "many", "step"),
    "one moment": lambda saved: saved["optimizer"]["state"][0].pop("exp_avg"),
    "no moments": optimizer(state={}),
    "moments are text": optimizer(state="x"),
    "moments of others": lambda saved: saved["optimizer"]["state"].update({99: {}}),
    "moments by name": lambda saved: saved["optimizer"]["state"].update({"a": {}}),
    "lr NaN": group(lr=NAN),
    "lr infinite": group(lr=INF),
    "lr negative": group(lr=-1.0),
    "lr text": group(lr="x"),
    "lr none": group(lr=None),
    "first lr NaN": group(initial_lr=NAN),
    "betas text": group(betas="ab"),
    "betas NaN": group(betas=(NAN, NAN)),
    "one beta": group(betas=(0.9,)),
    "no lr": without("lr"),
    "no first lr": without("initial_lr"),
    "no parameters": without("params"),
    "other order": group(params=[1, 0]),
    "one twice": group(params=[0, 0]),
    "parameters are a number": group(params=3),
    "no groups": optimizer(param_groups=[]),
    "groups are text": optimizer(param_groups="x"),
    "group is text": optimizer(param_groups=["x"]),
    "optimizer is text": lambda saved: saved.update(optimizer="x"),
    "no schedule": lambda saved: saved.pop("scheduler"),
    "schedule is empty": lambda saved: saved.update(scheduler={}),
    "schedule is a list": lambda saved: saved.update(scheduler=[1]),
    "elsewhere": schedule(last_epoch=1),
    "far ahead": schedule(last_epoch=10**9),
    "before its beginning": schedule(last_epoch=-5),
    "schedule NaN": schedule(last_epoch=NAN),
    "schedule text": schedule(last_epoch="x"),
    "rates NaN": schedule(base_lrs=[NAN]),
    "rates 0": schedule(base_lrs=[0.0]),
    "rates negative": schedule(base_lrs=[-1.0]),
    "rates text": schedule(base_lrs="x"),
    "no rates": schedule(base_lrs=[]),
    "last rates": schedule(_last_lr=[NAN]),
    "last rates none": schedule(_last_lr=None),
    "lambdas": schedule(lr_lambdas=[{"x": 1}]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_an_optimizer_that_cannot_be_gone_on_with(name: str, tmp_path: Path) -> None:
    update, saved = updated()
    saved = copy.deepcopy(saved)
    DAMAGES[name](saved)
    write_facts(tmp_path, STEPS, {})
    write_optimizer(tmp_path, saved)
    with pytest.raises(DamagedStateError, match=r"optimizer\.pt: damaged") as error:
        update.load(tmp_path)
    assert str(error.value).isprintable() and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "damage",
    [
        group(betas=(1.5, 2.0)), group(eps=-1.0), group(weight_decay=1e9), group(maximize=True),
        group(amsgrad=True), schedule(optimizer="x"), schedule(step="x"), schedule(get_lr=3),
        schedule(state_dict=1), schedule(later=1), lambda _: None,
    ],
)  # fmt: skip
def test_what_is_not_for_a_state_to_say_is_this_commands(damage: Damage, tmp_path: Path) -> None:
    """Settings that the record compares, and names that would replace a schedule's methods."""
    update, saved = updated()
    expected = copy.deepcopy(saved)
    damage(saved := copy.deepcopy(saved))
    write_facts(tmp_path, STEPS, {})
    write_optimizer(tmp_path, saved)
    update.load(tmp_path)
    assert update.optimizer.state_dict()["param_groups"] == expected["optimizer"]["param_groups"]
    assert update.scheduler.state_dict() == expected["scheduler"]
    assert update.scheduler.optimizer is update.optimizer
    update.optimizer.step()
    update.scheduler.step()
    assert update.learning_rate == pytest.approx(1e-3 * 0.9 ** (STEPS + 1))


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    **{
        name: getattr(torch.optim, name)
        for name in ("Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam",
                     "RMSprop", "Rprop", "SGD")
    },
    "momentum": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "amsgrad": partial(torch.optim.AdamW, amsgrad=True),
    "Adafactor": Adafactor,  # its learning rate is None
}  # fmt: skip


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_an_optimizer_has_saved_it_goes_on_with(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
) -> None:
    """Also of a weight that no gradient has reached."""
    weights = [nn.Parameter(torch.randn(size)) for size in ((8, 8), (4,), (3,))]
    optimizer = make(weights)
    step_with(optimizer, weights[:2], STEPS)
    saved = copy.deepcopy(optimizer.state_dict())
    others = [nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = make(others)
    check_optimizer(saved, resumed, STEPS, may_skip=False)
    groups = [with_own_settings(saved["param_groups"][0], resumed.param_groups[0], resumed)]
    resumed.load_state_dict({**saved, "param_groups": groups})
    step_with(optimizer, weights[:2], 1)
    step_with(resumed, others[:2], 1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(others, weights, strict=True))


def step_with(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int) -> None:
    for _ in range(steps):
        for weight in weights:
            weight.grad = weight.detach().cos()
        optimizer.step()


SCALERS: dict[str, tuple[dict[str, object], bool]] = {
    "as saved": ({"scale": 512.0, "_growth_tracker": 7}, True),
    "other factors": ({"scale": 512.0, "_growth_tracker": 7, "growth_factor": NAN}, True),
    "NaN": ({"scale": NAN, "_growth_tracker": 7}, False),
    "zero": ({"scale": 0.0, "_growth_tracker": 7}, False),
    "text": ({"scale": "x", "_growth_tracker": 7}, False),
    "counter": ({"scale": 512.0, "_growth_tracker": None}, False),
    "empty": ({}, False),
}


@pytest.mark.parametrize(("given", "good"), SCALERS.values(), ids=SCALERS)
def test_the_scale_of_gradients(given: dict[str, object], good: bool, tmp_path: Path) -> None:
    update, saved = updated()
    scaler = update.accelerator.scaler = GradScaler("cpu")
    before = scaler.state_dict()
    write_facts(tmp_path, STEPS, {})
    write_optimizer(tmp_path, {**saved, "scaler": given})
    if good:
        update.load(tmp_path)
        assert scaler.state_dict() == {**before, "scale": 512.0, "_growth_tracker": 7}
    else:
        with pytest.raises(DamagedStateError, match=r"optimizer\.pt: damaged"):
            update.load(tmp_path)


STEP_VALUES: list[object] = ["3", 3.0, 3.7, True, None, [3], 0, -3, 10**30, 4, 1, NAN]


@pytest.mark.parametrize("step", STEP_VALUES, ids=repr)
def test_a_step_that_is_not_the_folders(step: object, tmp_path: Path) -> None:
    (state := tmp_path / "step00000003").mkdir()
    facts = {"step": step, "record": {"max_train_steps": 3}}
    (state / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(DamagedStateError, match=r"state\.json: "):
        read_state(state)


def test_a_pipe_in_place_of_the_optimizer_is_not_waited_for(tmp_path: Path) -> None:
    update, _ = updated()
    write_facts(tmp_path, STEPS, {})
    os.mkfifo(tmp_path / "optimizer.pt")
    with pytest.raises(DamagedStateError, match="a pipe or a device"):
        update.load(tmp_path)


PLACES = ["state", "sample", "config.json", "metrics.jsonl", "losses.png", "siamese.safetensors"]


@pytest.mark.parametrize("how", ["a pipe", "a link to nothing", "the other kind"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_in_the_way_of_a_run(place: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / place
    if how == "a pipe":
        os.mkfifo(path)
    elif how == "a link to nothing":
        path.symlink_to("nowhere")
    else:
        path.mkdir() if path.suffix else path.touch()
    with pytest.raises(ConfigError, match=rf"{place} is no .* Move it away") as error:
        RunFolder(tmp_path, "siamese").check()
    assert str(error.value).startswith("--output_dir: ")


def test_links_in_place_of_states_are_removed_alone(tmp_path: Path) -> None:
    (precious := tmp_path / "elsewhere").mkdir()
    (precious / "file").touch()
    folder = RunFolder(tmp_path / "out", "siamese")
    folder.states.mkdir(parents=True)
    for name in (".step00000007.tmp", "step00000001"):
        (folder.states / name).symlink_to(precious)
    (tmp_path / "out/set_aside_1").symlink_to("nowhere")
    folder.begin({}, step=8)
    folder.clear(folder.unfinished_state(9))
    folder.complete_state(folder.unfinished_state(9), 9, {})
    folder.prune(1)
    assert [path.name for path in folder.states.iterdir()] == ["step00000009"]
    folder.begin({}, step=8)
    assert (tmp_path / "out/set_aside_2/step00000009").is_dir()
    assert (precious / "file").exists()


LINES = [
    '{"step": 2, "loss": "x"}',
    '{"step": true}',
    '{"step": "2"}',
    '{"step": 2, "x": [1]}',
    "7",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_history_that_no_curve_can_show(line: str, tmp_path: Path) -> None:
    (path := tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2: damaged"):
        metrics.lines_until(path, 3)


def test_losses_that_are_not_finite_are_left_out_of_the_curves() -> None:
    """Those of a validation in half precision may be."""
    lines = [{"step": n, "loss_mask": 1.0, "learning_rate": 1e-5} for n in (1, 2, 3)]
    for value in (NAN, INF):
        assert draw_losses([*lines, {"step": 3, "validation_mask": value}]) is not None
        assert draw_losses([{**line, "learning_rate": value} for line in lines]) is not None
        assert draw_losses([{**line, "loss_mask": value} for line in lines]) is not None
    assert draw_losses([{"step": 1, "loss_mask": 1.0}]) is None
