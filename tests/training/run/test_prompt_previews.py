"""--sample_prompts: files as sd-scripts has them, and what is sampled from them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from siamese_diffusion.training.data.sample_prompts import (
    SamplePrompt,
    check_sample_prompts,
    read_sample_prompts,
)
from siamese_diffusion.training.errors import ConfigError
from siamese_diffusion.training.hosts.sd_scripts.library import Library
from siamese_diffusion.training.train_siamese import main
from support.hostile_data import MASKS, PICTURES
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
        ("p.json", '[{"prompt": 3, "controlnet_image": "m"}]', "prompt is 3, no text"),
        ("p.json", '[{"seed": 3.7, "controlnet_image": "m"}]', "3.7 is no whole number"),
        ("p.json", '[{"seed": true, "controlnet_image": "m"}]', "True is no whole number"),
        ("p.json", '[{"sample_steps": [1], "controlnet_image": "m"}]', "prompt 1: int() arg"),
        ("p.json", '[{"controlnet_image": "\\ud800.png"}]', "\\ud800.png: no such file"),
        ("p.json", '[{"controlnet_image": "a\\u0000b"}]', "a\\x00b: no such file"),
        ("p.json", '[{"controlnet_image": "a\\nerror: b"}]', "a\\nerror: b: no such file"),
        ("p.json", "[1]", "prompt 1: "),
        ("p.json", "7", "cannot be read"),
        ("p.txt", f"a --l {'x' * 10_000} --cn {{mask}}", "prompt 1: could not convert"),
        ("p.txt", f"a --d {'9' * 5000} --cn {{mask}}", "prompt 1: Exceeds"),
        ("p.txt", "a --l 1e999 --cn {mask}", "--sample_cfg is inf"),
    ],
)
def test_files_that_cannot_be_used(
    name: str, text: str, expected: str, mask: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        read_sample_prompts(written(tmp_path, name, text.replace("{mask}", str(mask))))
    assert expected in str(error.value)
    assert str(error.value).isprintable() and len(str(error.value)) < 2000


@pytest.mark.parametrize("name", [*PICTURES, *MASKS])
@pytest.mark.filterwarnings("ignore")
def test_a_mask_that_training_would_not_take_is_named_at_once(name: str, tmp_path: Path) -> None:
    """Not hours later, when the first preview is due."""
    if name in PICTURES:
        (path := tmp_path / "m.png").write_bytes(PICTURES[name])
    else:
        path = save(tmp_path / "m.png", MASKS[name])
    prompts = written(tmp_path, "p.txt", f"a --cn {path}")
    if name in ("of another size", "turned"):  # than an image: here is none
        check_sample_prompts(prompts, "binary")
        return
    with pytest.raises(ConfigError, match=r"p\.txt, prompt 1: .*m\.png") as error:
        check_sample_prompts(prompts, "binary")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", [os.mkfifo, lambda path: path.symlink_to("nowhere"), os.mkdir])
def test_a_mask_that_is_no_file_is_named(how: Callable[[Path], object], tmp_path: Path) -> None:
    how(tmp_path / "m.png")
    prompts = written(tmp_path, "p.txt", f"a --cn {tmp_path / 'm.png'}")
    with pytest.raises(ConfigError, match="no such file; expected a mask after --cn"):
        check_sample_prompts(prompts, "binary")


def test_masks_of_other_kinds_are_taken(tmp_path: Path) -> None:
    for mode in ("1", "P", "I;16"):
        image = Image.fromarray(lesion())
        image = (
            Image.fromarray(lesion().astype(np.uint16) * 257) if mode == "I;16"
            else image.convert(mode)
        )  # fmt: skip
        image.save(path := tmp_path / f"{mode[0]}.png")
        check_sample_prompts(written(tmp_path, "p.txt", f"a --cn {path}"), "binary")


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
