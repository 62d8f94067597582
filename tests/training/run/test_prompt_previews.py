"""--sample_prompts: files as sd-scripts has them, and what is sampled from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from siamese_diffusion.training.data.sample_prompts import SamplePrompt, read_sample_prompts
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.sd_scripts.library import Library
from siamese_diffusion.training.train_siamese import main
from support.small_datasets import lesion, save
from support.tiny_runs import flags, train

pytest_plugins = ["support.sd_scripts_fixtures"]


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return save(tmp_path / "a mask.png", lesion())


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_lines_tables_and_json_say_the_same(mask: Path, tmp_path: Path) -> None:
    line = f"a polyp, small --n blurry, grey --d 7 --s 20 --l 2.5 --w 512 --ss ddim --cn {mask}"
    expected = [SamplePrompt("a polyp, small", mask, "blurry, grey", 7, 20, 2.5)]
    text = written(tmp_path, "p.txt", f"# comment\n\n{line}\n")
    toml = written(
        tmp_path, "p.toml",
        f"[prompt]\nsample_steps = 20\nscale = 2.5\ncontrolnet_image = '{mask}'\n"
        '[[prompt.subset]]\nprompt = "a polyp, small"\n'
        'negative_prompt = "blurry, grey"\nseed = 7\n',
    )  # fmt: skip
    as_json = written(tmp_path, "p.json", json.dumps([line]))
    for path in (text, toml, as_json):
        assert read_sample_prompts(path) == expected


def test_a_line_means_what_it_means_in_sd_scripts(library: Library, tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.png", lesion())
    line = f"a --b c, d --n no --d 3 --s 4 --l 5.5 --cn {mask}"
    theirs = library.train_util.line_to_prompt_dict(line)
    [ours] = read_sample_prompts(written(tmp_path, "p.txt", line))
    assert ours.negative_prompt == theirs["negative_prompt"]
    assert (ours.seed, ours.steps) == (theirs["seed"], theirs["sample_steps"])
    assert (ours.cfg, str(ours.mask)) == (theirs["scale"], theirs["controlnet_image"])
    assert ours.prompt == theirs["prompt"] == "a"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.txt", "a polyp", "prompt 1: no mask; add --cn MASK"),
        ("p.txt", "a --cn missing.png", "prompt 1: missing.png: no such file"),
        ("p.txt", "a --s many --cn p.txt", "prompt 1: invalid literal"),
        ("p.txt", "a --s 1000 --cn {mask}", "--sample_steps is 1000; it must be at least 1"),
        ("p.txt", "a --d -1 --cn {mask}", "prompt 1: --seed is -1; it must be at least 0"),
        ("p.txt", "a --l nan --cn {mask}", "prompt 1: --sample_cfg is nan; it must be"),
        ("p.toml", '[[prompt.subset]]\nseed = inf\ncontrolnet_image = "m"', "prompt 1: cannot"),
        ("p.txt", "# nothing", "no prompts"),
        ("p.json", "{", "cannot be read"),
        ("p.txt", f"a --cn {'n' * 300}", "no such file; expected a mask"),
        ("p.txt", "a\n" * 1025, "1025 prompts; at most 1024"),
        ("p.json", '[{"prompt": "\\ud800", "controlnet_image": "m"}]', "is no text"),
        ("p.toml", "[prompt]", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(
    name: str, text: str, expected: str, mask: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        read_sample_prompts(written(tmp_path, name, text.replace("{mask}", str(mask))))
    assert expected in str(error.value)


@pytest.mark.slow
def test_a_run_shows_its_prompts(tiny: Path, pairs: Path, mask: Path, tmp_path: Path) -> None:
    prompts = written(tmp_path, "p.txt", f"one --cn {mask}\nother --s 2 --l 1 --cn {mask}\n")
    out = tmp_path / "out"
    train(tiny, pairs, out, "--max_train_steps=1", f"--sample_prompts={prompts}")
    grid = np.asarray(Image.open(out / "sample/siamese-prompts-step00000001.png"))
    assert grid.shape[1] > grid.shape[0]  # three columns, two rows
    assert grid[:64, :64].max() == 255 and grid[:64, :64].min() == 0  # the mask
    assert grid[:64, 68:132].std() > 1
    prompts.write_text("one", encoding="utf-8")
    assert main(flags(tiny, pairs, tmp_path / "other", f"--sample_prompts={prompts}")) == 2
