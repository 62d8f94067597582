"""sd-scripts' own flags on its host: what they do, and which are refused."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from siamese_diffusion.training.command_line import parse_args
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.data.batch_order import Share
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.sd_scripts.aliases import KNOWN, NO_MEANING, kind_of
from siamese_diffusion.training.hosts.sd_scripts.flags import (
    HOST_FLAGS,
    NEEDS,
    NEUTRAL,
    REFUSED,
    SCHEDULE_FLAGS,
)
from siamese_diffusion.training.hosts.sd_scripts.library import Library, build_parser
from siamese_diffusion.training.method.objective import Batch
from support.sd_scripts_base import make
from torch import Tensor, nn

pytest_plugins = ["support.sd_scripts_fixtures"]
NEEDED = ["--pretrained_model_name_or_path=a", "--train_data=b", "--output_dir=c"]

ALL = Share.all_of(64)


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


def test_noise_options_that_are_off_change_nothing(sd_scripts: Path, tmp_path: Path) -> None:
    host, _ = make(sd_scripts, tmp_path, tmp_path, noise_offset=0.0)
    whole = batch()
    assert host.apply_noise_options(whole, ALL, 1, 2) is whole


def test_noise_options_depend_on_seed_and_step_alone(sd_scripts: Path, tmp_path: Path) -> None:
    whole = batch()
    plain, _ = make(sd_scripts, tmp_path, tmp_path)
    assert plain.apply_noise_options(whole, ALL, 1, 2) is whole
    host, _ = make(sd_scripts, tmp_path, tmp_path, noise_offset=2.0, multires_noise_iterations=2)
    torch.manual_seed(5)
    random.seed(5)
    first = host.apply_noise_options(whole, ALL, 1, 2)
    after = torch.rand(1), random.random()
    torch.manual_seed(5)
    random.seed(5)
    assert (torch.rand(1), random.random()) == after  # the global generators are as they were
    again, other = (host.apply_noise_options(whole, ALL, 1, step) for step in (2, 3))
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.noise, other.noise)
    # Offsets that depend on the latents: on a row's own alone.
    host, _ = make(sd_scripts, tmp_path, tmp_path, noise_offset=1.0, adaptive_noise_scale=1.0)
    first = host.apply_noise_options(whole, ALL, 1, 2)
    part = host.apply_noise_options(whole.rows(5, 9), Share(slice(5, 9), 64), 1, 2)
    assert torch.equal(part.noise, first.noise[5:9])
    assert torch.equal(part.timesteps, first.timesteps[5:9])
    # Noise offset: the mean of a channel has a variance of its own, 2 squared.
    offset, _ = make(sd_scripts, tmp_path, tmp_path, noise_offset=2.0)
    means = offset.apply_noise_options(whole, ALL, 1, 2).noise.mean((2, 3))
    assert 1.6 < means.std() < 2.4
    assert whole.noise.mean((2, 3)).std() < 0.2


def test_the_timestep_range(sd_scripts: Path, tmp_path: Path) -> None:
    host, _ = make(sd_scripts, tmp_path, tmp_path, min_timestep=100, max_timestep=110)
    timesteps = torch.cat(
        [host.apply_noise_options(batch(), ALL, 0, n).timesteps for n in range(4)]
    )
    assert set(timesteps.tolist()) == set(range(100, 110))


def closed_form_snr(timesteps: Tensor) -> Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0)[timesteps]
    return signal / (1 - signal)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"min_snr_gamma": 5.0}, lambda snr: snr.clamp(max=5) / snr),
        (
            {"min_snr_gamma": 5.0, "v_parameterization": True},
            lambda snr: snr.clamp(max=5) / (snr + 1),
        ),
        ({"debiased_estimation_loss": True}, lambda snr: snr.clamp(max=1000).rsqrt()),
        ({"v_pred_like_loss": 0.5}, lambda snr: 1 + 0.5 * (snr + 1) / snr),
        (
            {"scale_v_pred_loss_like_noise_pred": True, "v_parameterization": True},
            lambda snr: snr / (snr + 1),
        ),
    ],
)
def test_weights_of_the_loss(
    flags: dict[str, object],
    expected: Callable[[Tensor], Tensor],
    sd_scripts: Path,
    tmp_path: Path,
) -> None:
    timesteps = torch.tensor([0, 10, 300, 700, 999])
    plain, _ = make(sd_scripts, tmp_path, tmp_path)
    assert plain.loss_weight(timesteps) is None
    host, _ = make(sd_scripts, tmp_path, tmp_path, **flags)
    weight = host.loss_weight(timesteps)
    assert weight is not None
    closed_form = expected(closed_form_snr(timesteps))
    torch.testing.assert_close(weight.double(), closed_form, rtol=1e-3, atol=1e-5)


def test_flags_of_the_learning_rate(sd_scripts: Path, tmp_path: Path) -> None:
    def rates(**flags: object) -> list[float]:
        host, settings = make(
            sd_scripts, tmp_path, tmp_path, max_train_steps=10, learning_rate=1.0, **flags
        )
        optimizer, schedule = host.make_optimizer(settings, [nn.Parameter(torch.ones(3))])
        found = []
        for _ in range(10):
            found += schedule.get_last_lr()
            optimizer.step()
            schedule.step()
        return found

    squared = rates(lr_scheduler="polynomial", lr_scheduler_power=2)
    assert squared == pytest.approx([(1 - step / 10) ** 2 for step in range(10)], abs=1e-6)
    stable = rates(lr_scheduler="warmup_stable_decay", lr_warmup_steps=0.2, lr_decay_steps=4)
    assert stable[:7] == pytest.approx([0, 0.5, 1, 1, 1, 1, 1])
    assert stable[7] > stable[8] > stable[9]
    halved = rates(lr_scheduler_type="StepLR", lr_scheduler_args=["step_size=5", "gamma=0.5"])
    assert halved == pytest.approx([1] * 5 + [0.5] * 5)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            {"scale_v_pred_loss_like_noise_pred": True},
            "can be enabled only with v_parameterization",
        ),
        ({"max_timestep": 2000}, "--max_timestep is 2000; it must be at least 1"),
        ({"min_timestep": 500, "max_timestep": 100}, "--min_timestep 500"),
        ({"min_timestep": -1}, "--min_timestep is -1; it must be at least 0"),
    ],
)
def test_options_without_a_meaning_are_refused(
    flags: dict[str, object], expected: str, sd_scripts: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        make(sd_scripts, tmp_path, tmp_path, **flags)
    assert expected in str(error.value)
    assert str(error.value).isascii()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"lr_scheduler_type": "ReduceLROnPlateau"}, "needs a loss to watch"),
        (
            {"lr_scheduler_type": "nobody_has.Such"},
            "--lr_scheduler_type nobody_has.Such: No module",
        ),
        ({"optimizer_args": ("decay",)}, "--optimizer_args: 'decay' is not key=value"),
        ({"optimizer_type": "Prodigy"}, "Install it: pip install prodigyopt"),
        ({"optimizer_type": "AdamWScheduleFree"}, "schedule-free"),
    ],
)
def test_optimizers_and_schedules_that_cannot_be_had(
    flags: dict[str, object], expected: str, sd_scripts: Path, tmp_path: Path
) -> None:
    host, settings = make(sd_scripts, tmp_path, tmp_path, **flags)
    with pytest.raises(ConfigError) as error:
        host.make_optimizer(settings, [nn.Parameter(torch.ones(3))])
    assert expected in str(error.value)


def test_a_configuration_prints_no_warnings_of_its(
    sd_scripts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(sd_scripts, tmp_path, tmp_path, sample_every_n_steps=0, cache_latents_to_disk=True)
    assert not caplog.records


# Where flags come from


def test_flags_from_a_config_file(sd_scripts: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        "\ufeffmin_snr_gamma = 5\nnoise_offset = 0.1\nmin_timestep = 0\n"
        'debiased_estimation_loss = true\nmetadata_description = "--x"\n'
        'lr_scheduler_args = ["a=1", "b=2"]\nloss_type = "l2"\nsave_state = false\n',
        encoding="utf-8",
    )
    flags = [f"--config_file={file}", f"--sd_scripts={sd_scripts}", "--min_snr_gamma=3"]
    assert parse_args([*NEEDED, *flags]).host_options == {
        "min_snr_gamma": 3.0,  # the command line wins
        "noise_offset": 0.1,
        "debiased_estimation_loss": True,
        "metadata_description": "--x",
        "lr_scheduler_args": ["a=1", "b=2"],
    }


def test_every_flag_of_its_training_script_is_the_same_taken_or_refused(
    library: Library, sd_scripts: Path
) -> None:
    script = sd_scripts / "train_control_net.py"
    spec = importlib.util.spec_from_file_location("train_control_net", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parser = module.setup_parser()
    theirs = {action.dest for action in parser._actions} - {"help"}
    theirs |= {action.dest for action in build_parser(library)._actions}
    ours = {item.name for item in fields(TrainConfig)} | {"config_file"}
    assert theirs - ours - HOST_FLAGS - REFUSED.keys() - KNOWN == set()
    assert theirs >= HOST_FLAGS
    names = [*ours, *HOST_FLAGS, *REFUSED, *KNOWN]
    assert len(names) == len({*names})
    assert {*NEEDS, *NEEDS.values(), *SCHEDULE_FLAGS} <= HOST_FLAGS
    own = [*REFUSED, *NO_MEANING, *HOST_FLAGS]
    on = {name: parser.get_default(name) for name in own if parser.get_default(name)}
    assert {name for name in on if on[name] not in NEUTRAL.get(name, ())} == set()
    assert NEUTRAL.keys() <= {*own}


def test_values_of_its_flags_are_read_as_it_reads_them(library: Library) -> None:
    kinds = {action.dest: action for action in build_parser(library)._actions}
    for name in KNOWN & kinds.keys():
        action = kinds[name]
        expected = bool if action.nargs == 0 else action.type or str
        assert kind_of(name) is expected, name
