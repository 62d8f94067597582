"""The pack in a real ComfyUI server, and the tool that runs the server."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from siamese_diffusion.tools.comfy_host import PACK_NAME, PYTHON, ROOT, ComfyHost, HostError
from support.processes import DEADLINE
from support.waiting import queue_until

pytest_plugins = ["support.comfy_inside"]

NODE_INPUTS = json.loads((ROOT / "tests/data/node_inputs.json").read_text("utf-8"))
COLOURS = count()
TRAINING_ONLY = {"diffusers", "accelerate", "library"}  # `library` is that of sd-scripts


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def empty_images(number: int) -> dict[str, Any]:
    return node("EmptyImage", width=64, height=48, batch_size=number, color=255)


def slow_prompt() -> dict[str, Any]:
    """A chain of 100 blurs; ComfyUI looks for an interruption between two nodes.

    Each of another colour, so that nothing comes from the cache.
    """
    colour = next(COLOURS)
    prompt = {"0": node("EmptyImage", width=1024, height=1024, batch_size=1, color=colour)}
    for index in range(1, 101):
        image = [str(index - 1), 0]
        prompt[str(index)] = node("ImageBlur", image=image, blur_radius=20, sigma=5.0)
    prompt["preview"] = node("PreviewImage", images=["100", 0])
    return prompt


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE):
            return True
    except urllib.error.URLError:
        return False


# The pack


def test_node_ids_and_input_names_are_those_of_saved_graphs(host: ComfyHost) -> None:
    """Renaming breaks graphs that people saved, as does another order, by which widgets are saved.

    What is new is added to tests/data/node_inputs.json.
    """
    known = host.object_info().items()
    ours = {name: info for name, info in known if name.startswith("Siamese")}
    assert {info["python_module"] for info in ours.values()} == {f"custom_nodes.{PACK_NAME}"}
    assert {
        name: [key for kind in ("required", "optional") for key in info["input"].get(kind, {})]
        for name, info in ours.items()
    } == NODE_INPUTS


def test_search_aliases_are_given_to_a_host_that_has_them(
    pack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy_api.latest import io

    @dataclass
    class NewerSchema(io.Schema):
        search_aliases: list[str] = field(default_factory=list)

    monkeypatch.setattr(io, "Schema", NewerSchema)
    schema = pack.loader_nodes.SiameseBundleLoader.define_schema()
    assert "load controlnet" in schema.search_aliases


def test_start_up_log_reports_no_failed_import(host: ComfyHost) -> None:
    log = host.log.read_text("utf-8")
    assert PACK_NAME in log
    assert "IMPORT FAILED" not in log


def test_starting_comfyui_imports_no_training_library(host: ComfyHost, tmp_path: Path) -> None:
    """The interpreter itself lists every module of a real start that ends once nodes are loaded."""
    start = ComfyHost(tmp_path, flags=["--quick-test-for-ci"])
    start.provision()
    python, *arguments = start.command()
    command = [python, "-X", "importtime", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.rsplit("|", 1)[-1].strip() for line in lines}
    assert any(name.endswith(f"{PACK_NAME}.nodes") for name in modules), "the pack was not loaded"
    assert {name.split(".")[0] for name in modules} & TRAINING_ONLY == set()


# The tool


def test_run_returns_the_written_images(host: ComfyHost) -> None:
    save = node("SaveImage", images=["1", 0], filename_prefix="folder/name")
    paths = host.images(host.run({"1": empty_images(2), "2": save}))
    assert [path.name for path in paths] == ["name_00001_.png", "name_00002_.png"]
    assert {path.parent for path in paths} == {host.output / "folder"}
    assert all(path.is_file() for path in paths)


def test_refused_prompt_names_node_and_input(host: ComfyHost) -> None:
    load = node("LoadImage", image="missing.png")
    with pytest.raises(HostError, match=r"^LoadImage \(node 1\): .*missing\.png"):
        host.run({"1": load, "2": node("PreviewImage", images=["1", 0])})
    with pytest.raises(HostError, match="NoSuchNode"):
        host.run({"1": node("NoSuchNode")})


def test_failed_node_gives_its_message(host: ComfyHost) -> None:
    (host.input / "broken.png").write_bytes(b"not an image")
    load = node("LoadImage", image="broken.png")
    with pytest.raises(HostError, match=r"LoadImage \(node 1\): .*cannot identify image file"):
        host.run({"1": load, "2": node("PreviewImage", images=["1", 0])})


def test_interrupt_ends_the_running_prompt(host: ComfyHost) -> None:
    prompt_id = queue_until(host, slow_prompt(), "executing", "1")
    host.interrupt()
    with pytest.raises(HostError, match="interrupted at ImageBlur"):
        host.wait(prompt_id)


def test_prompt_past_its_timeout_leaves_the_server_free(host: ComfyHost) -> None:
    prompt_id = queue_until(host, slow_prompt(), "executing", "1")
    with pytest.raises(HostError, match=r"not finished after 0 s"):
        host.wait(prompt_id, timeout=0)
    host.run({"1": empty_images(1), "2": node("PreviewImage", images=["1", 0])})
    with pytest.raises(HostError, match="interrupted at ImageBlur"):
        host.wait(prompt_id)


def test_taken_port_is_refused(host: ComfyHost, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"cannot use port {host.port}"):
        ComfyHost(tmp_path, port=host.port).start()


def test_failed_start_shows_the_log(host: ComfyHost, tmp_path: Path) -> None:
    server = ComfyHost(tmp_path, flags=["--no-such-flag"])
    with pytest.raises(HostError, match="unrecognized arguments: --no-such-flag"):
        server.start()
    assert server.process is None


def test_folder_in_place_of_the_link_is_kept(tmp_path: Path) -> None:
    pack = tmp_path / "custom_nodes" / PACK_NAME
    pack.mkdir(parents=True)
    with pytest.raises(HostError, match="not a link to this checkout"):
        ComfyHost(tmp_path).provision()
    assert pack.is_dir()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_it_is_stopped(
    host: ComfyHost, tmp_path: Path, signal_number: signal.Signals
) -> None:
    arguments = ["--base", str(tmp_path), "--port", "0"]
    command = [str(PYTHON), "-m", "siamese_diffusion.tools.comfy_host", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(text for text in process.stdout if text.startswith("Open "))
        url = line.split()[1]
        assert answers(url)
        process.send_signal(signal_number)
        try:
            code = process.wait(DEADLINE)
        finally:
            process.kill()
    assert code == (0 if signal_number == signal.SIGINT else 128 + signal.SIGTERM)
    assert not answers(url)
