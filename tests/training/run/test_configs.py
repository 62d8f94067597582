"""configs/*.toml: the published settings for each dataset, on one card and on eight."""

from __future__ import annotations

from pathlib import Path

import pytest
from siamese_diffusion.training.command_line import parse_args
from siamese_diffusion.training.config import TrainConfig
from siamese_diffusion.training.prepare.registry import DATASETS
from siamese_diffusion.training.prepare_data import main as prepare
from siamese_diffusion.training.train_siamese import main as train
from support.dataset_archives import BUILDERS
from support.paths import ROOT

CONFIGS = ROOT / "configs"
CARDS = {"24gb": 1, "8gpu": 8}
NAMES = [name for name in DATASETS if name != "folders"]


def parse(name: str, kind: str) -> TrainConfig:
    path = CONFIGS / f"{name}_{kind}.toml"
    return parse_args([f"--config_file={path}", "--pretrained_model_name_or_path=base"])


def test_each_dataset_has_a_file_for_one_card_and_for_eight() -> None:
    found = {path.stem for path in CONFIGS.iterdir()}
    assert found == {f"{name}_{kind}" for name in NAMES for kind in CARDS}


@pytest.mark.parametrize("kind", CARDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_config_holds_the_published_settings(name: str, kind: str) -> None:
    config = parse(name, kind)
    assert config.size == (384, 384)
    assert config.train_batch_size * config.gradient_accumulation_steps * CARDS[kind] == 48
    assert (config.optimizer_type, config.learning_rate) == ("AdamW", 1e-5)
    assert (config.lr_scheduler, config.max_grad_norm, config.ema_decay) == ("constant", 0, 0)
    assert (config.max_train_steps, config.seed) == (3000, 42)
    assert config.caption_dropout_rate == 0.05
    assert config.recipe == "published"
    assert config.mixed_precision == {"24gb": "bf16", "8gpu": "no"}[kind]
    assert config.train_data == Path(f"data/{name}/train/prompt.jsonl")
    assert config.output_dir == Path(f"runs/{name}")
    text = (CONFIGS / f"{name}_{kind}.toml").read_text("utf-8")
    assert f"configs/{name}_{kind}.toml" in text, "the command in the comment names another file"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("kvasir-seg", "24gb"), ("cvc-clinicdb", "8gpu")])
def test_a_config_finds_the_prepared_pairs(
    name: str,
    kind: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    archive = BUILDERS[name](tmp_path / "download")
    assert prepare([name, str(archive), str(tmp_path / "data" / name)]) == 0
    monkeypatch.chdir(tmp_path)
    flags = [f"--pretrained_model_name_or_path={tiny}", "--host=standalone", "--dry_run"]
    with caplog.at_level("INFO"):
        assert train([f"--config_file={CONFIGS / f'{name}_{kind}.toml'}", *flags]) == 0
    lines = len((tmp_path / f"data/{name}/train/prompt.jsonl").read_text("utf-8").splitlines())
    assert lines > 400 and str(lines) in caplog.text
    assert not (tmp_path / "runs").exists()
