"""What a user or a stranger's file can cause in synthesis: one line with file, finding, remedy."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from siamese_diffusion.common.pairs import DatasetError
from siamese_diffusion.models.metadata import SiameseMetadata
from siamese_diffusion.synthesis import run
from siamese_diffusion.synthesis.errors import SynthesisError
from siamese_diffusion.synthesis.jobs import TarJob, units_of
from siamese_diffusion.synthesis.masks import listed_masks
from siamese_diffusion.synthesis.settings import Shard
from siamese_diffusion.synthesis.synthesize import main
from siamese_diffusion.synthesis.weights import TRAINING_SETTINGS, find_weights
from support.full_disk import at_most
from support.paths import ROOT
from support.processes import run as run_process
from support.stub_models import Stub
from support.synthesis_runs import random_job, synthesis_flags

pytest_plugins = ["support.synthesis_runs"]

DEEP = "[" * 100_000
REMEDY = re.compile(r"\b(Check it|Give|give|Delete|Make room|Check the path|[Rr]ename|Lower)\b")
# Not JSON, or JSON that is not what a run has written.
DAMAGED = {
    "deep": DEEP, "deep objects": '{"a":' * 100_000, "half": '{"plan": ', "list": "[1]",
    "number": "1", "empty": "", "not UTF-8": b"\xff\xfe",
    "long number": '{"a": ' + "9" * 5000 + "}",
}  # fmt: skip


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "load_model", lambda *_: Stub())


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def refused(
    arguments: list[str], path: Path | str, capsys: pytest.CaptureFixture[str], code: int = 2
) -> str:
    """The one line that names the path, and what to do."""
    capsys.readouterr()
    assert main(arguments) == code
    [line] = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert str(path) in line and REMEDY.search(line) and line.isprintable()
    assert "a bug in this program" not in line
    assert len(line) < 2000
    return line


@pytest.mark.parametrize("name", ["masks", "bundle", "checkpoint", "backgrounds", "output_dir"])
def test_a_name_that_is_too_long(
    name: str, tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = synthesis_flags(tiny_weights, masks, tmp_path / "out")
    given = [*(flag for flag in given if name != "checkpoint" or "--bundle" not in flag)]
    refused([*given, f"--{name}={tmp_path / ('n' * 300)}"], "n" * 300, capsys)


@pytest.mark.parametrize("name", ["masks", "bundle", "backgrounds"])
def test_what_a_terminal_would_take_for_commands(
    name: str, tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = synthesis_flags(tiny_weights, masks, tmp_path / "out")
    refused([*given, f"--{name}={tmp_path}/\x1b[2J\udce9"], "\\x1b[2J\\udce9", capsys)


def test_a_log_line_is_escaped_too(tiny_weights: Path, tmp_path: Path) -> None:
    """As the terminal gets it, of a mask's name."""
    write(tmp_path / "masks" / "\x1b[2J.png", b"no picture")
    arguments = synthesis_flags(tiny_weights, tmp_path / "masks", tmp_path / "out")
    done = run_process([sys.executable, ROOT / "synthesis/synthesize.py", *arguments])
    assert done.returncode == 1, done.stderr
    assert "\\x1b[2J.png: cannot be decoded" in done.stderr and "\x1b" not in done.stderr
    checked = run_process([sys.executable, ROOT / "synthesis/synthesize.py", *arguments, "--check"])
    assert checked.returncode == 1
    assert "missing: " in checked.stdout and "\x1b" not in checked.stdout


def test_a_prompt_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--masks=m", "--output_dir=o", "--prompt=caf\udce9"])
    assert stop.value.code == 2
    assert "--prompt: 'caf\\udce9': is not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--least_contrast=0"], "'0': expected a number from 0.05 to 1"),
        (["--least_contrast=nan"], "'nan': expected a number from 0.05 to 1"),
        (["--least_contrast=0.5", "--backgrounds=b"], "with --backgrounds, which stay as they are"),
    ],
)
def test_a_share_of_contrast_that_cannot_be(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--masks=m", "--output_dir=o", *more])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_settings(
    content: str | bytes, tiny_weights: Path, masks: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write(tmp_path / "out/settings.json", content)
    given = synthesis_flags(tiny_weights, masks, tmp_path / "out")
    assert "cannot be read (" in refused(given, tmp_path / "out/settings.json", capsys)


def test_settings_of_anything(
    tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is named, shortened, and no more than some."""
    values = {f"\x1b{n}": "n" * 10_000 for n in range(1000)}
    write(tmp_path / "out/settings.json", json.dumps({"by_prefix": "x", **values}))
    given = synthesis_flags(tiny_weights, masks, tmp_path / "out")
    capsys.readouterr()
    assert main(given) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "holds pairs made with other settings: by_prefix 'x', now True" in line
    assert line.isprintable() and len(line) < 6000


@pytest.mark.parametrize(
    "content",
    [*DAMAGED.values(), '{"pretrained_model_name_or_path": 1}',
     json.dumps({"pretrained_model_name_or_path": "n" * 300}),
     json.dumps({"pretrained_model_name_or_path": "a\0b"})],
)  # fmt: skip
def test_a_damaged_config_beside_the_bundle_is_as_none(
    content: str | bytes, tiny_weights: Path, tmp_path: Path
) -> None:
    for path in tiny_weights.iterdir():
        (tmp_path / path.name).symlink_to(path)
    write(tmp_path / TRAINING_SETTINGS, content)
    weights = find_weights(None, tmp_path / "siamese.safetensors", None, False, None)
    assert weights.base == tmp_path / "base.safetensors"
    assert isinstance(weights.metadata, SiameseMetadata)


MANIFESTS = {
    **DAMAGED,
    "no numbers": '{"plan": "x"}',
    "texts": '{"plan": "x", "made": "1", "there": "2", "failed": {}}',
    "infinite": '{"plan": "x", "made": 1e999, "there": 0, "failed": {}}',
    "negative": '{"plan": "x", "made": -1, "there": 0, "failed": {}}',
    "failed is a list": '{"plan": "x", "made": 1, "there": 0, "failed": ["a"]}',
    "failed has numbers": '{"plan": "x", "made": 1, "there": 0, "failed": {"a": 1}}',
}


@pytest.mark.usefixtures("stubbed")
@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS)
def test_a_damaged_record_of_another_shard(
    content: str | bytes, tiny_weights: Path, masks: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The pairs are made, and are there when it is mended as the message says."""
    out = tmp_path / "out"
    given = [*synthesis_flags(tiny_weights, masks, out), "--prompt=a"]
    path = out / "shards" / "00000-of-00002.manifest.json"
    write(path, content)
    assert ": damaged (" in refused([*given, "--shard=1/2"], path, capsys, code=1)
    path.unlink()
    assert main([*given, "--shard=0/2"]) == 0
    assert len((out / "prompt.jsonl").read_text("utf-8").splitlines()) == 3


FAILED = {**DAMAGED, "numbers": '{"a": 1}'}


@pytest.mark.usefixtures("stubbed")
@pytest.mark.parametrize("content", FAILED.values(), ids=FAILED)
def test_a_damaged_list_of_what_failed(
    content: str | bytes, tiny_weights: Path, masks: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = [*synthesis_flags(tiny_weights, masks, tmp_path / "out"), "--tar"]
    assert main(given) == 0
    path = tmp_path / "out/shards/pairs-00000.tar.failed.json"
    write(path, content)
    message = refused(given, path, capsys, code=1)
    archive = tmp_path / "out/pairs-00000.tar"
    assert f"Delete it and {archive}" in message
    path.unlink()
    archive.unlink()
    assert main(given) == 0


def line(source: str) -> str:
    return json.dumps({"source": source, "target": "i.png", "prompt": "a"}) + "\n"


def test_absolute_and_relative_masks_in_one_list(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "prompt.jsonl", line("masks/m1.png") + line(f"{masks}/sub/m10.png"))
    found = listed_masks(Path("prompt.jsonl"))
    assert found.stems == ["m1", "sub/m10"]
    assert [Path(path) for path in found.paths] == [masks / "m1.png", masks / "sub/m10.png"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", '"source" names no file'), (".", '"source" names no file'),
        ("/", '"source" names no file'), ("\udce9.png", "rename it"),
        ("n" * 240 + ".png", "a name of 240 bytes; rename it"),
        ("ü" * 120 + "/m.png", "a name of 240 bytes; rename it"),
    ],
)  # fmt: skip
def test_a_mask_that_no_pair_can_be_called_by(
    source: str, says: str, tiny_weights: Path, masks: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = masks / "prompt.jsonl"
    write(path, line("m1.png") + line(source))
    capsys.readouterr()
    assert main(synthesis_flags(tiny_weights, path, tmp_path / "out")) == 2
    found = capsys.readouterr().err
    assert f"{path}: 1 problem" in found and says in found
    assert "Traceback" not in found


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.png", "A.png"), ("\u00e9.png", "e\u0301.png"), ("sub/a.png", "SUB/a.png")],
)
def test_masks_whose_pairs_would_overwrite_each_other(first: str, second: str, masks: Path) -> None:
    """On the file systems of Windows and a Mac."""
    path = masks / "prompt.jsonl"
    write(path, line(first) + line(second) + line("m1.png"))
    with pytest.raises(DatasetError, match=r"2 masks are called .* keep or rename one"):
        listed_masks(path)


def test_a_mask_file_with_a_long_name(
    tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(masks / f"{'n' * 240}.png", b"")
    given = synthesis_flags(tiny_weights, masks, tmp_path / "out")
    assert "a name of 240 bytes" in refused(given, masks, capsys)


@pytest.mark.parametrize(
    "more",
    [
        ["--random_masks=1000000000", "--images_per_mask=1000000"],
        ["--augment_masks=1000000000"],
        ["--augment_masks=1000000000", "--images_per_mask=1000000"],
    ],
)
def test_more_pairs_than_a_run_has(
    more: list[str], tiny_weights: Path, masks: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = synthesis_flags(tiny_weights, masks, tmp_path / "out")
    if "--random" in more[0]:
        del given[1]
    assert "at most 1000000000 are made" in refused([*given, *more], "--images_per_mask", capsys)


def test_pairs_are_counted_without_a_loop(tmp_path: Path) -> None:
    folders = random_job(tmp_path, count=10**9)
    tars = TarJob(folders.plan, tmp_path, folders.masking, 1)
    assert folders.pairs(range(10**9)) == 10**9
    assert tars.pairs(range(len(tars))) == 10**9
    few = TarJob(random_job(tmp_path).plan, tmp_path, folders.masking, 1, pairs_per_tar=7)
    for shard in (Shard(), Shard(0, 2), Shard(1, 2), Shard(2, 3)):
        units = units_of(few, shard)
        assert few.pairs(units) == sum(len([*few.items(unit)]) for unit in units)


@pytest.mark.usefixtures("stubbed")
def test_what_stops_a_run_under_way_is_told_by_the_exit_code(
    tiny_weights: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    begin: Callable[..., object] = Stub.images
    asked: list[int] = []

    def images(self: Stub, batch: list[object]) -> object:
        asked.append(len(batch))
        if len(asked) > 2:
            raise SynthesisError("no memory. Give the same command again to go on.")
        return begin(self, batch)

    monkeypatch.setattr(Stub, "images", images)
    given = synthesis_flags(tiny_weights, masks, tmp_path / "out")
    refused(given, "no memory", capsys, code=1)
    asked[:] = [1, 1]
    refused([*given[:2], f"--output_dir={tmp_path / 'other'}"], "no memory", capsys, code=2)


@pytest.mark.usefixtures("stubbed")
@pytest.mark.parametrize("at", ["images", "shards", "prompt.jsonl", "manifest.json"])
def test_what_is_in_the_way_stops_a_run_under_way(
    at: str, tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pairs that are made stay, and the same command goes on."""
    path = tmp_path / "out" / at
    path.parent.mkdir()
    path.mkdir() if "." in at else path.touch()
    given = synthesis_flags(tiny_weights, masks, tmp_path / "out")
    refused(given, path, capsys, code=1)
    path.rmdir() if "." in at else path.unlink()
    assert main(given) == 0


@pytest.mark.usefixtures("stubbed")
def test_a_mask_whose_name_has_a_line_end_is_told_in_one_line(
    tiny_weights: Path, masks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write(path := masks / "prompt.jsonl", line("a\nb.png"))
    assert main(synthesis_flags(tiny_weights, path, tmp_path / "out")) == 1
    assert "a\\nb_1: " in caplog.text


@pytest.mark.usefixtures("stubbed")
def test_pictures_that_cannot_be_opened_are_not_passed_over(
    tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    os.mkfifo(masks / "pipe.png")
    (masks / "gone.png").symlink_to("nowhere")
    given = synthesis_flags(tiny_weights, masks, tmp_path / "out")
    assert main(given) == 1
    assert "3 pairs: 3 made now, 0 were there; 2 failed" in caplog.text
    assert "gone_1: " in caplog.text and "pipe_1: " in caplog.text
    (masks / "more").symlink_to(tmp_path)
    assert "a link to a folder" in refused(given, masks / "more", capsys)


@pytest.mark.usefixtures("stubbed")
def test_a_full_disk_leaves_no_half_archive(
    tiny_weights: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is found while the archive is packed; the pairs that are there stay."""
    out = tmp_path / "out"
    given = [*synthesis_flags(tiny_weights, masks, out), "--tar"]
    with at_most(4096):
        refused(given, out / "pairs-00000.tar", capsys, code=1)
    assert not [path for path in out.iterdir() if path.suffix in (".tar", ".tmp", ".jsonl")]
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(made) == 6
    assert main(given) == 0
    record = json.loads((out / "manifest.json").read_text("utf-8"))
    assert (record["made"], record["there"]) == (0, 3)
