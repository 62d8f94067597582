"""One real server, every hostile request: refused with a message, and the server goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from siamese_diffusion.tools.comfy_host import ComfyHost, HostError
from support.hostile_requests import OUTSIDE, REQUESTS, write_files
from support.needs import Need
from support.remedies import QUOTED, missing_parts
from support.served_models import provide
from support.workflow_prompts import bundle_prompt, save_prompt

pytestmark = [pytest.mark.server, pytest.mark.slow]

LONGEST = 2000  # characters of a node's message
MOST_MEMORY = 4 << 30
# The types of errors that say what a user can do; ComfyUI shows them with the message.
MEANT = re.compile(r"^Siamese\w+ \(node \w+\): ([^:]+\.)?(ValueError|WeightsError): ")


@pytest.fixture(scope="module")
def attacked(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyHost]:
    """A server of its own, since its folders are full of traps."""
    with ComfyHost(tmp_path_factory.mktemp("attacked")) as host:
        write_files(provide(host, nano))
        yield host


@pytest.fixture(scope="module")
def answers(attacked: ComfyHost) -> dict[str, str]:
    """What the server says to each request, all of them queued before the first is waited for."""
    said: dict[str, str] = {}
    queued: dict[str, str] = {}
    for name, request in REQUESTS.items():
        try:
            queued[name] = attacked.queue(request.prompt, extra_pnginfo=request.extra)
        except HostError as error:
            said[name] = str(error)
    for name, prompt_id in queued.items():
        try:
            attacked.wait(prompt_id, timeout=600)
            said[name] = ""
        except HostError as error:
            said[name] = str(error)
    return said


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_refused(name: str, answers: dict[str, str]) -> None:
    message, request = answers[name], REQUESTS[name]
    assert message, "accepted"
    assert re.search(request.says, message)
    if "(node " in message and MEANT.match(message) is None:
        assert is_refused_by_comfyui(message), message
    if meant := MEANT.match(message):
        said = QUOTED.sub("", message[meant.end() :])
        assert missing_parts(said) == [], message
        assert message.replace("\n", "").isprintable()
        assert len(message) < LONGEST


def is_refused_by_comfyui(message: str) -> bool:
    """By its own check of inputs, before any node runs."""
    return (
        re.search(
            r"Value not in list|Failed to convert|smaller than min|bigger than max|"
            r"Bad linked input|Required input is missing|Return type mismatch|"
            r"Exception when validating",
            message,
        )
        is not None
    )


def test_it_goes_on(attacked: ComfyHost, answers: dict[str, str]) -> None:
    assert answers
    assert attacked.images(attacked.run(bundle_prompt()))
    assert attacked.images(attacked.run(save_prompt("good")))


def test_nothing_is_written_elsewhere(attacked: ComfyHost, answers: dict[str, str]) -> None:
    assert answers
    outside = [path.name for path in (attacked.base / OUTSIDE).iterdir()]
    assert sorted(outside) == ["m.png", "scores.jsonl"]
    assert not list(attacked.base.rglob("ran"))
    made = {path.name for path in attacked.output.iterdir() if path.is_dir()}
    assert "hostile" not in made or not list((attacked.output / "hostile").rglob("*.png"))


def test_memory_is_bounded(attacked: ComfyHost, answers: dict[str, str]) -> None:
    if not Path("/proc/self/status").is_file():
        Need.LINUX.skip()
    assert answers and attacked.process is not None
    status = Path(f"/proc/{attacked.process.pid}/status").read_text("utf-8")
    # The server itself, with its models, has some gigabytes.
    peak, now = (int(size) << 10 for size in re.findall(r"Vm(?:HWM|RSS):\s+(\d+) kB", status))
    assert peak - now < MOST_MEMORY
