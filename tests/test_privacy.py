"""Nothing is sent to anyone, and what is written reveals no more than the documentation says.

Of an evaluation: tests/evaluation/test_evaluate.py.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from siamese_diffusion.synthesis.synthesize import main as synthesize
from siamese_diffusion.tools.comfy_host import ROOT, ComfyHost
from siamese_diffusion.tools.pairs import write_pairs
from siamese_diffusion.training.train_siamese import main
from support import no_network
from support.dataset_archives import cvc_clinicdb
from support.needs import Need
from support.paths import TRAIN_SCRIPT
from support.processes import run
from support.synthesis_runs import synthesis_flags
from support.tiny_base import write_tiny_base
from support.tiny_runs import flags

pytest_plugins = ["support.synthesis_runs"]

linux: pytest.MarkDecorator = Need.LINUX.unless(no_network.AVAILABLE)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("secret place") / "Müller.safetensors")


# What is sent


def python(code: str) -> int:
    return run([*no_network.PREFIX, sys.executable, "-c", code]).returncode


@linux
def test_who_sends_is_killed() -> None:
    """So that the tests below, and all on the server and of the evaluation, mean something."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        assert python(connect) == no_network.KILLED
    datagram = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))"
    assert python(datagram) == no_network.KILLED
    assert python("import socket; a, b = socket.socketpair(); a.send(b'x'); b.recv(1)") == 0


@linux
@pytest.mark.slow
def test_training_and_merging_send_nothing(base: Path, pairs: Path, tmp_path: Path) -> None:
    """With all that could look for a file, a model or a server elsewhere."""
    everything = [
        "--host=standalone", "--train_batch_size=2", "--ema_decay=0.9", "--log_with=tensorboard",
        "--cache_latents_to_disk", "--validation_split=0.34", "--validate_every_n_steps=1",
        "--sample_every_n_steps=1", "--mixed_precision=bf16", "--gradient_checkpointing",
    ]  # fmt: skip
    arguments = flags(base, pairs, tmp_path / "out", *everything)
    trained = run([*no_network.PREFIX, sys.executable, TRAIN_SCRIPT, *arguments])
    assert trained.returncode == 0, trained.stderr
    merge = [sys.executable, ROOT / "training/merge_bundle.py", base]
    files = [tmp_path / "out/siamese.safetensors", tmp_path / "merged.safetensors"]
    merged = run([*no_network.PREFIX, *merge, *files])
    assert merged.returncode == 0, merged.stderr


@linux
@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--tar", "--processes=2"]], ids=["folder", "tar"])
def test_synthesis_sends_nothing(
    more: list[str], tiny_weights: Path, masks: Path, tmp_path: Path
) -> None:
    """The base is looked for beside the bundle; several processes talk to each other."""
    script = [sys.executable, ROOT / "synthesis/synthesize.py"]
    backgrounds = ["--augment_masks=1", f"--backgrounds={masks}", "--sampler=DDIM"]
    arguments = synthesis_flags(tiny_weights, masks, tmp_path / "out", *backgrounds, *more)
    made = run([*no_network.PREFIX, *script, *arguments])
    assert made.returncode == 0, made.stderr
    checked = run([*no_network.PREFIX, *script, *arguments, "--check"])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@linux
@pytest.mark.slow
def test_preparing_sends_nothing(tmp_path: Path) -> None:
    source = cvc_clinicdb(tmp_path / "download")
    script = [sys.executable, ROOT / "training/prepare_data.py", "cvc-clinicdb", source]
    made = run([*no_network.PREFIX, *script, tmp_path / "out"])
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "out/train/prompt.jsonl").is_file()


@linux
def test_no_node_sends_anything(host: ComfyHost) -> None:
    """The server of all tests, with every node that they run, would have been killed."""
    assert [*host.command()][: len(no_network.PREFIX)] == no_network.PREFIX
    assert "SiameseSynthesizeDataset" in host.object_info()


# What is written


def revealed(folder: Path, secrets: list[str]) -> dict[str, list[str]]:
    """File -> which of the secrets its bytes or name hold, as they are or as JSON writes them."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes() + str(path.relative_to(folder)).encode()
            forms = {s: (s.encode(), json.dumps(s)[1:-1].encode()) for s in secrets}
            hits = [s for s, forms in forms.items() if any(form in content for form in forms)]
            if hits:
                found[str(path.relative_to(folder))] = hits
    return found


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose paths, names, captions and groups must not get out."""
    index = write_pairs(tmp_path_factory.mktemp("ward 7") / "pairs", count=6, size=64, seed=0)
    lines = [json.loads(line) for line in index.read_text("utf-8").splitlines()]
    for number, line in enumerate(lines):
        line |= {"prompt": f"polyp of Mrs Öztürk {number}", "group": f"patient-4711-{number}"}
        for role in ("source", "target"):
            path = index.parent / line[role]
            renamed = path.with_name(f"scan-0815-{path.name}")
            if path.exists():
                path.rename(renamed)
            line[role] = str(renamed.relative_to(index.parent))
    index.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return index


MACHINE = "computer-of-ward-7"
SECRETS = ["ward 7", "secret place", "Müller", "Öztürk", "scan-0815", "patient-4711", "clinic"]


@pytest.mark.slow
def test_an_anonymous_run_tells_of_no_path_name_or_caption(
    base: Path, patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--host=standalone", "--train_batch_size=2", "--cache_latents_to_disk",
            "--max_train_steps=1", "--validation_split=0.34"]  # fmt: skip
    monkeypatch.setattr(socket, "gethostname", lambda: MACHINE)
    secrets = [*SECRETS, MACHINE, str(tmp_path)]
    told = tmp_path / "told"
    assert main(flags(base, patients, told / "out", "--output_name=clinic", *more)) == 0
    reveal = revealed(told, secrets)
    # As documented: paths stay in the run's own folder, captions in no file at all, and files are
    # called by --output_name.
    named = {n: hits for n, hits in reveal.items() if n.endswith((".safetensors", ".png"))}
    assert "out/clinic.safetensors" in named and {*map(tuple, named.values())} == {("clinic",)}
    state = "out/state/step00000001/state.json"
    assert reveal.keys() - named.keys() == {"out/config.json", state}
    assert not {"Öztürk", "scan-0815", "patient-4711"} & {hit for h in reveal.values() for hit in h}
    untold = tmp_path / "untold"
    assert main(flags(base, patients, untold / "out", "--anonymous", *more)) == 0
    assert revealed(untold, secrets) == {}
    with safe_open(untold / "out/siamese.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.title"] == "Siamese-Diffusion"
    assert "output_name" not in json.loads(metadata["siamese.config"])
    # It is known again without paths, and resumed.
    (untold / "out/siamese.safetensors").unlink()
    assert main(flags(base, patients, untold / "out", "--anonymous", *more)) == 0


def test_an_anonymous_run_has_no_tracker(
    base: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--host=standalone", "--anonymous", "--log_with=tensorboard"]
    assert main(flags(base, patients, tmp_path / "out", *more)) == 2
    assert "trackers write the name of this machine" in capsys.readouterr().err


def pictures(out: Path) -> list[bytes]:
    """All pixels, in the order of the list of pairs."""
    lines = [json.loads(line) for line in (out / "prompt.jsonl").read_text("utf-8").splitlines()]
    return [(out / line[role]).read_bytes() for line in lines for role in ("source", "target")]


@pytest.mark.slow
def test_anonymous_pairs_tell_of_no_path_name_or_caption(
    tiny_weights: Path, patients: Path, tmp_path: Path
) -> None:
    """A mask that fails has its path in the records otherwise."""
    folder = tmp_path / "ward 7"
    shutil.copytree(patients.parent, folder)
    [first, *_] = sorted((folder / "masks").iterdir())
    first.write_bytes(b"no picture")
    secrets = [*SECRETS, str(tmp_path)]

    def make(name: str, *more: str) -> Path:
        flags = synthesis_flags(tiny_weights, folder / "prompt.jsonl", tmp_path / name, *more)
        assert synthesize(flags) == 1
        return tmp_path / name

    told = make("told")
    names = {*revealed(told, secrets)}
    pairs = {path for path in names if path.startswith(("images/", "masks/"))}
    records = {"prompt.jsonl", "manifest.json", "shards/00000-of-00001.jsonl",
               "shards/00000-of-00001.manifest.json"}  # fmt: skip
    assert names - pairs == records and len(pairs) == 10
    untold = make("untold", "--anonymous")
    assert revealed(untold, secrets) == {}
    assert pictures(untold) == pictures(told)  # the same pairs under other names
    assert revealed(make("packed", "--anonymous", "--tar"), secrets) == {}
    folders = synthesis_flags(tiny_weights, folder / "masks", tmp_path / "by prompt")
    assert synthesize([*folders, "--anonymous", "--prompt=Mrs Öztürk"]) == 1
    assert revealed(tmp_path / "by prompt", secrets) == {}
    assert synthesize([*folders, "--anonymous", "--prompt=other"]) == 2  # and yet known again
