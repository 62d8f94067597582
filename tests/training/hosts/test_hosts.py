"""What both training hosts must do, each tested alike; and how one is chosen."""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from siamese_diffusion.models.kinds import Kind
from siamese_diffusion.models.metadata import read_metadata
from siamese_diffusion.models.weights import read_weights
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.choose import choose_host
from siamese_diffusion.training.hosts.sd_scripts.aliases import (
    ALWAYS_SO,
    COMPUTED,
    NO_MEANING,
    ONE_VALUE,
    RENAMED,
    SWITCHES,
)
from siamese_diffusion.training.hosts.sd_scripts.flags import (
    HOST_FLAGS,
    NEEDS,
    NEUTRAL,
    REFUSED,
    SCHEDULE_FLAGS,
)
from siamese_diffusion.training.hosts.sd_scripts.library import NEEDED
from siamese_diffusion.training.hosts.sd_scripts.locate import find_sd_scripts
from siamese_diffusion.training.train_siamese import main
from support.paths import ROOT
from support.processes import end_with, run
from support.small_datasets import config
from support.small_runs import command, losses, metrics
from support.tiny_base import write_tiny_base
from torch import nn

pytest_plugins = ["support.sd_scripts_fixtures"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture
def base(host_flags: list[str], request: pytest.FixtureRequest) -> Path:
    """A small checkpoint that the chosen host loads."""
    name = "tiny" if "standalone" in host_flags[0] else "sd_scripts_checkpoint"
    return request.getfixturevalue(name)


def train(base: Path, pairs: Path | None, out: Path, *flags: str) -> int:
    return main(command(base, pairs, out, *flags))


def test_it_trains_and_says_who_trained(
    host_flags: list[str], base: Path, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = ["--max_train_steps=3", "--output_name=polyps", "--save_every_n_steps=2", *host_flags]
    assert train(base, pairs, out, *flags) == 0
    bundle = read_weights(out / "polyps.safetensors")
    assert bundle.kind is Kind.BUNDLE
    metadata = read_metadata(bundle.metadata, "bundle")
    assert metadata is not None
    host = "standalone" if "standalone" in host_flags[0] else "sd-scripts"
    assert metadata.host.split()[0] == host
    assert metadata.title == bundle.metadata["modelspec.title"] == "polyps"
    assert len(losses(out)) == 3
    assert (out / "polyps-step00000002.safetensors").is_file()
    assert (out / "sample/polyps-step00000003.png").is_file()


@pytest.mark.slow
def test_it_resumes_bit_for_bit(
    host_flags: list[str], base: Path, pairs: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = ["--max_train_steps=4", "--save_every_n_steps=2", *host_flags]
    assert train(base, pairs, whole, *flags) == 0
    assert train(base, pairs, parts, *flags) == 0
    # As if it had been killed after step 2.
    (parts / "siamese.safetensors").unlink()
    shutil.rmtree(parts / "state/step00000004")
    assert train(base, pairs, parts, *flags) == 0
    assert losses(whole) == losses(parts)
    first = read_weights(whole / "siamese.safetensors").tensors
    second = read_weights(parts / "siamese.safetensors").tensors
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_a_dataset_toml_trains(
    host_flags: list[str], base: Path, pairs: Path, tmp_path: Path
) -> None:
    """As the ControlNet documentation of sd-scripts shows one."""
    toml = tmp_path / "dataset.toml"
    toml.write_text(
        f"""
[general]
flip_aug = false
color_aug = false
resolution = [64, 64]

[[datasets]]
batch_size = 2
enable_bucket = false

    [[datasets.subsets]]
    image_dir = '{pairs.parent / "images"}'
    caption_extension = ".txt"
    conditioning_data_dir = '{pairs.parent / "masks"}'
""",
        encoding="utf-8",
    )
    flags = [f"--dataset_config={toml}", "--max_train_steps=1", *host_flags]
    assert train(base, None, tmp_path / "out", *flags) == 0
    assert len(losses(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("flags", "optimizer", "expected"),
    [
        ({}, "AdamW", lambda step: 1.0),
        (
            {"lr_scheduler": "cosine", "lr_warmup_steps": 2},
            "AdamW",
            lambda step: step / 2 if step < 2 else (1 + math.cos(math.pi * (step - 2) / 8)) / 2,
        ),
        (
            {"lr_scheduler": "linear", "optimizer_type": "SGDNesterov"},
            "SGD",
            lambda step: 1 - step / 10,
        ),
        ({"optimizer_type": "torch.optim.RAdam"}, "RAdam", lambda step: 1.0),
    ],
)
def test_optimizers_and_schedules_by_name(
    flags: dict[str, object],
    optimizer: str,
    expected: object,
    host_flags: list[str],
    tmp_path: Path,
) -> None:
    settings = config(
        tmp_path, max_train_steps=10, learning_rate=0.1, **flags, **as_options(host_flags)
    )
    weight = nn.Parameter(torch.ones(3))
    made, schedule = choose_host(settings).make_optimizer(settings, [weight])
    assert type(made).__name__ == optimizer
    for step in range(10):
        assert schedule.get_last_lr()[0] == pytest.approx(0.1 * expected(step)), step  # type: ignore[operator]
        made.step()
        schedule.step()


def as_options(host_flags: list[str]) -> dict[str, object]:
    name, _, value = host_flags[0].lstrip("-").partition("=")
    return {name: Path(value) if name == "sd_scripts" else value}


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--optimizer_type=Adamm", "--optimizer_type"),
        ("--optimizer_args=weight_decays=1", "weight_decays"),
        ("--lr_scheduler=sawtooth", "--lr_scheduler"),
    ],
)
def test_wrong_names_get_one_line(
    flag: str,
    named: str,
    host_flags: list[str],
    base: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(base, pairs, tmp_path / "out", "--dry_run", flag, *host_flags) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert named in line
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_refused(
    host_flags: list[str], pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "base.safetensors"
    for content in (None, b"not a checkpoint"):
        if content:
            file.write_bytes(content)
        assert train(file, pairs, tmp_path / "out", *host_flags) == 2
        assert f"error: {file}: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# How a host is chosen


def write_fake(folder: Path, **changed: str) -> Path:
    """A folder that looks like sd-scripts from outside."""
    library = folder / "library"
    library.mkdir(parents=True)
    for name, functions in {"__init__": (), **NEEDED}.items():
        text = "".join(f"def {function}(): ...\n" for function in functions)
        (library / f"{name}.py").write_text(text, encoding="utf-8")
    for name, text in changed.items():
        (library / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no earlier test had imported sd-scripts."""
    monkeypatch.delitem(sys.modules, "library", raising=False)


@pytest.mark.usefixtures("not_imported")
def test_the_host_is_standalone_unless_sd_scripts_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_host(config(tmp_path)).name == "standalone"
    folder = write_fake(tmp_path / "sd-scripts")
    monkeypatch.setenv("SD_SCRIPTS_DIR", str(folder))
    assert find_sd_scripts(None, None) == folder
    assert choose_host(config(tmp_path, host="standalone")).name == "standalone"
    monkeypatch.setenv("SD_SCRIPTS_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=r"SD_SCRIPTS_DIR: .* is not a checkout"):
        find_sd_scripts(None, None)


@pytest.mark.usefixtures("not_imported")
def test_an_installed_library_of_kohyas_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_fake(tmp_path / "sd-scripts")
    monkeypatch.syspath_prepend(str(folder))
    assert find_sd_scripts(None, None) == folder
    assert find_sd_scripts("standalone", None) is None


def test_a_library_loaded_by_its_path_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a run, or a test, with --sd_scripts in the same process."""
    library = write_fake(tmp_path / "sd-scripts") / "library"
    spec = importlib.util.spec_from_file_location("library", library / "__init__.py")
    assert spec is not None
    monkeypatch.setitem(sys.modules, "library", importlib.util.module_from_spec(spec))
    assert choose_host(config(tmp_path)).name == "standalone"


@pytest.mark.usefixtures("not_imported")
def test_another_package_called_library_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert choose_host(config(tmp_path)).name == "standalone"


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize(
    ("module", "text", "expected"),
    [
        ("train_util", "import a_package_nobody_has", "a_package_nobody_has is not installed"),
        ("train_util", "from library import gone", "cannot be imported"),
        ("train_util", "raise OSError('no CUDA')", "OSError: no CUDA"),
        ("train_util", "", "version unknown here: no library.train_util.add_dataset"),
        ("__init__", "raise OSError('no CUDA')", "OSError: no CUDA"),
        ("train_util", "from library import strategy_base", "cannot be imported"),
        ("sai_model_spec", "from library.strategy_base import a", "version unknown here"),
        # Its functions are there, but none takes an argument.
        ("__init__", "", "version unknown here: add_"),
    ],
)
def test_a_broken_checkout_is_explained(
    module: str,
    text: str,
    expected: str,
    pairs: Path,
    tmp_path: Path,
    processes: multiprocessing.context.ForkServerContext,
) -> None:
    """In a process of its own, because a process can import only one `library`."""
    folder = write_fake(tmp_path / "sd scripts", **{module: text})
    arguments = [
        f"--sd_scripts={folder}", "--pretrained_model_name_or_path=base.safetensors",
        f"--train_data={pairs}", "--output_dir=out",
    ]  # fmt: skip
    log = tmp_path / "log"
    process = processes.Process(target=end_with, args=(main, arguments, log, tmp_path))
    process.start()
    process.join()
    said = log.read_text()
    assert process.exitcode == 2, said
    assert expected in said
    assert "Traceback" not in said
    assert "--host standalone" in said


@pytest.mark.usefixtures("not_imported")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--host=sd-scripts"], "--host sd-scripts: it was not found"),
        (["--sd_scripts=missing"], "is not a folder"),
        (["--sd_scripts=."], "is not a checkout of sd-scripts"),
        (["--min_snr_gamma=5"], "--min_snr_gamma: needs sd-scripts as host"),
        (["--color_aug", "--alpha_mask"], "--alpha_mask: the mask is the condition here"),
    ],
)
def test_flags_that_need_sd_scripts_or_have_no_effect(
    flags: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = ["--pretrained_model_name_or_path=a", "--train_data=b", "--output_dir=c"]
    assert main([*needed, *flags]) == 2
    message = capsys.readouterr().err
    assert expected in message
    if len(flags) == 2:  # all of them in one message
        assert "--color_aug: latents are cached" in message


def test_a_config_file_of_sd_scripts_may_have_flags_that_are_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[a]\ncache_latents = false\nrandom_crop = false\n[b]\ncolor_aug = true\n")
    # As there, .toml may be left out.
    assert main([f"--config_file={tmp_path / 'config'}"]) == 2
    message = capsys.readouterr().err
    assert "--color_aug: latents are cached" in message
    assert "random_crop:" not in message and "cache_latents" not in message


@pytest.mark.slow
def test_without_sd_scripts_nothing_of_it_is_imported(pairs: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from siamese_diffusion.training.train_siamese import main\n"
        "code = main(sys.argv[1:])\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'library'), code)"
    )
    flags = [
        f"--train_data={pairs}", "--pretrained_model_name_or_path=none", "--output_dir=out",
    ]  # fmt: skip
    (tmp_path / "siamese_diffusion").symlink_to(ROOT, target_is_directory=True)
    result = run([sys.executable, "-c", code, *flags], cwd=tmp_path)
    assert result.stdout.strip() == "[] 2", result.stderr


def documented_flags(section: str) -> set[str]:
    """The flags of a section of docs/sd-scripts.md; of a table, those of the first column."""
    text = (ROOT / "docs/sd-scripts.md").read_text(encoding="utf-8")
    _, _, rest = text.partition(f"### {section}\n")
    body, _, _ = rest.partition("\n### ")
    lines = [line.split(" | ")[0] if line.startswith("|") else line for line in body.splitlines()]
    return set(re.findall(r"`--(\w+)`", "\n".join(lines)))


def test_the_documentation_says_what_becomes_of_every_flag() -> None:
    shared = documented_flags("Same name and meaning")
    changed = documented_flags("Same name, another default or meaning")
    ours = documented_flags("Ours")
    assert not shared & changed and not (shared | changed) & ours
    flags = {item.name for item in fields(TrainConfig) if "group" in item.metadata}
    assert shared | changed | ours == flags | {"config_file"}
    assert documented_flags("Only with sd-scripts as host") == HOST_FLAGS
    assert documented_flags("Said by another flag") == {*SWITCHES, *RENAMED, *COMPUTED}
    assert documented_flags("Always so") == ALWAYS_SO | ONE_VALUE.keys()
    assert documented_flags("Without a meaning here") == NO_MEANING


def test_the_documentation_says_which_flags_have_no_effect() -> None:
    text = (ROOT / "docs/sd-scripts.md").read_text(encoding="utf-8")
    table = text.partition("### Of those, without an effect\n")[2].partition("\n### ")[0]
    documented = {}
    for line in table.splitlines()[6:]:
        flag, value, needed = (cell.strip() for cell in line.strip("|").split("|"))
        documented[flag] = ([float(value)] if value else [], needed)
    expected = {
        f"`--{name}`": (
            [*NEUTRAL.get(name, ())],
            f"`--{NEEDS[name]}`" if name in NEEDS
            else f"`--lr_scheduler` {', '.join(SCHEDULE_FLAGS[name])}" if name in SCHEDULE_FLAGS
            else "",
        )
        for name in HOST_FLAGS & {*NEUTRAL, *NEEDS, *SCHEDULE_FLAGS}
    }  # fmt: skip
    assert documented == expected


def test_the_documentation_gives_the_reasons_for_what_is_refused() -> None:
    text = (ROOT / "docs/sd-scripts.md").read_text(encoding="utf-8")
    table = text.partition("### Refused\n")[2]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    documented = {
        name: reason.replace("`", "")
        for names, reason in rows
        for name in re.findall(r"`--(\w+)`", names)
    }
    assert documented == REFUSED


def test_the_example_of_the_documentation_trains(
    host_flags: list[str],
    base: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (ROOT / "docs/sd-scripts.md").read_text(encoding="utf-8")
    example = text.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "polyps.toml").write_text(example, encoding="utf-8")
    (tmp_path / "polyps").symlink_to(pairs.parent)
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset_config=polyps.toml", "--dry_run", *host_flags]
    assert train(base, None, tmp_path / "out", *flags) == 0


@pytest.mark.slow
def test_masks_and_validation_are_alike(
    host_flags: list[str], base: Path, pairs: Path, tmp_path: Path
) -> None:
    flags = [
        "--mask_mode=palette", "--validation_split=0.5", "--validate_every_n_steps=2",
        "--max_train_steps=2", *host_flags,
    ]  # fmt: skip
    assert train(base, pairs, tmp_path, *flags) == 0
    last = metrics(tmp_path)[-1]
    parts = [value for name, value in last.items() if name.startswith("validation_")]
    assert len(parts) == 4 and all(part > 0 for part in parts)
    bundle = read_weights(tmp_path / "siamese.safetensors")
    metadata = read_metadata(bundle.metadata, "bundle")
    assert metadata is not None
    assert metadata.mask_classes == {"#000000": "background", "#ffffff": "class 1"}
