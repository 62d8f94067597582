"""A real ComfyUI server with this checkout as its one custom node pack, for tests and the demo.

    with ComfyHost(folder) as host:
        history = host.run(prompt)            # prompt: a workflow in API format
        paths = host.images(history)

As a command it serves the page until Ctrl-C:

    python -m siamese_diffusion.tools.comfy_host --base folder [--workflow NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON = Path(sys.executable)
# Another ComfyUI than the one that `make setup` brings.
COMFYUI = Path(os.environ.get("COMFYUI_DIR") or ROOT / ".venv" / "comfyui").resolve()
PACK_NAME = "ComfyUI-Siamese-Diffusion"
FOLDERS = (
    *("custom_nodes", "input", "output", "temp", "user"),
    *("models/checkpoints", "models/controlnet", "models/loras", "models/vae"),
)
POLL_SECONDS = 0.1
LOG_TAIL_LINES = 30

# A proxy set for the outside world must not see requests to our own server.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class HostError(RuntimeError):
    """The server did not start, or refused or failed a prompt; the message says which and why."""


class ComfyHost:
    """ComfyUI on 127.0.0.1, with all its files under one base folder.

    Args:
        base: folder for models, input, output and the log; made, with the pack linked in, on start.
        port: 0 takes a free one.
        flags: further command line flags of ComfyUI's main.py.
        cpu: False lets ComfyUI choose its device.
    """

    def __init__(
        self, base: str | Path, *, port: int = 0, flags: Sequence[str] = (), cpu: bool = True
    ) -> None:
        self.base = Path(base).resolve()
        self.port = port
        self.flags = [*(["--cpu"] if cpu else []), *flags]
        self.log = self.base / "comfyui.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the page; final once the server has started."""
        return f"http://127.0.0.1:{self.port}"

    def workflow_url(self, name: str) -> str:
        """Address of the page with one of the pack's workflows open."""
        return f"{self.url}/?template={name}&source={PACK_NAME}"

    @property
    def models(self) -> Path:
        """Folder of the model folders: `host.models / "checkpoints"`."""
        return self.base / "models"

    @property
    def input(self) -> Path:
        """Folder that LoadImage reads."""
        return self.base / "input"

    @property
    def output(self) -> Path:
        """Folder that SaveImage writes."""
        return self.base / "output"

    # Starting and stopping

    def provision(self) -> None:
        """Make the base folder and link the pack into it; what is already there is kept."""
        for folder in FOLDERS:
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / PACK_NAME
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise HostError(f"{link} is not a link to this checkout: move it away")
        link.symlink_to(ROOT, target_is_directory=True)

    def start(self, timeout: float = 180.0) -> ComfyHost:
        """Start the server and return once it answers.

        Raises:
            HostError: not set up, port taken, or no answer in `timeout` seconds (shows the log).
        """
        if not (COMFYUI / "main.py").is_file():
            raise HostError(f"no ComfyUI in {COMFYUI}: run `make setup`")
        self.provision()
        self.port = _claim_port(self.port)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.base, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_ready(time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def command(self) -> list[str]:
        """The command line that starts the server."""
        return [
            *(str(PYTHON), str(COMFYUI / "main.py")),
            *("--base-directory", str(self.base), "--port", str(self.port)),
            # By default all servers of one ComfyUI folder share a database in it.
            *("--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}"),
            *("--disable-api-nodes", *self.flags),
        ]

    def _wait_until_ready(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                self._request("/queue")
            except OSError:  # not listening yet
                time.sleep(POLL_SECONDS)
            else:
                return
        raise HostError(f"ComfyUI did not answer in time\n{self.log_tail()}")

    def _check_alive(self) -> None:
        if self.process is None:
            raise HostError("ComfyUI is not running: call start()")
        code = self.process.poll()
        if code is not None:
            raise HostError(f"ComfyUI ended with exit code {code}\n{self.log_tail()}")

    def stop(self) -> None:
        """End the process, by force after 10 seconds; does nothing when it is not running."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> ComfyHost:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of the server's log, under the log's path."""
        text = self.log.read_text("utf-8", errors="replace") if self.log.is_file() else ""
        return "\n".join([f"--- {self.log}", *text.splitlines()[-lines:]])

    # The server's API

    def object_info(self) -> dict[str, Any]:
        """Node id -> its description (inputs, outputs, category), for every node of the server."""
        return self._call("/object_info")

    def queue(
        self, prompt: dict[str, Any], client_id: str | None = None, extra_pnginfo: Any = None
    ) -> str:
        """Queue a workflow in API format and return its prompt id.

        client_id: that of a WebSocket which is to be told of each node. extra_pnginfo: what the
        page would send for the metadata of saved pictures.

        Raises:
            HostError: the server refused it; one line for each input that is wrong.
        """
        more: dict[str, Any] = {} if client_id is None else {"client_id": client_id}
        if extra_pnginfo is not None:
            more["extra_data"] = {"extra_pnginfo": extra_pnginfo}
        answer = self._call("/prompt", {"prompt": prompt, **more})
        if answer["node_errors"]:  # the outputs without an error were queued all the same
            raise HostError(_validation_message(answer))
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 300.0) -> dict[str, Any]:
        """Wait for a queued prompt and return its history entry ("outputs", "status", "prompt").

        Raises:
            HostError: a node failed (with its message), the prompt was interrupted, or it did not
                finish in `timeout` seconds, in which case it is interrupted.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self._call(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                _raise_on_failure(entry)
                return dict(entry)
            time.sleep(POLL_SECONDS)
        self._call("/queue", {"delete": [prompt_id]})
        self._call("/interrupt", {"prompt_id": prompt_id})
        raise HostError(f"prompt not finished after {timeout:g} s\n{self.log_tail()}")

    def run(self, prompt: dict[str, Any], timeout: float = 300.0) -> dict[str, Any]:
        """`queue` and `wait` in one."""
        return self.wait(self.queue(prompt), timeout)

    def images(self, history: dict[str, Any]) -> list[Path]:
        """Image files of a history entry (output folder; temp for previews), node by node."""
        return [
            self.base / image["type"] / image["subfolder"] / image["filename"]
            for outputs in history["outputs"].values()
            for image in outputs.get("images", [])
        ]

    def interrupt(self) -> None:
        """Interrupt the running prompt, if any; its `wait` raises HostError."""
        self._call("/interrupt", {})

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """GET (or POST `body`) and decode the answer; an empty answer is {}."""
        self._check_alive()
        try:
            return self._request(path, body)
        except urllib.error.HTTPError as error:
            raise HostError(_refusal_message(error)) from None
        except OSError as error:
            raise HostError(
                f"no answer from {self.url}{path}: {error}\n{self.log_tail()}"
            ) from None

    def _request(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)
        with _open(request, timeout=60) as response:
            text = response.read()
        return json.loads(text) if text else {}


def import_comfyui() -> None:
    """Make ComfyUI's own modules importable in this process, on the CPU, without its server.

    Raises HostError when it is not set up.
    """
    if not COMFYUI.is_dir():
        raise HostError(f"no ComfyUI in {COMFYUI}: run `make setup`")
    sys.path.insert(0, str(COMFYUI))
    from comfy.cli_args import args

    args.cpu = True


def _claim_port(port: int) -> int:
    """A free port (0), or `port` after a check that nobody listens on it.

    Without the check, another server on the port would be taken for ours.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise HostError(f"cannot use port {port}: {error.strerror}; choose another") from None
        return int(probe.getsockname()[1])


def _refusal_message(error: urllib.error.HTTPError) -> str:
    """Message for an HTTP error: the server's own reasons where it gave any."""
    text = error.read().decode("utf-8", errors="replace")
    try:
        return _validation_message(json.loads(text))
    except (ValueError, KeyError, TypeError):
        return f"{error.url} answered {error.code} {error.reason}: {text[:500]}"


def _validation_message(answer: dict[str, Any]) -> str:
    """One line for each wrong input of a refused prompt: "Node (id): message: details"."""
    lines = [
        f"{node['class_type']} (node {node_id}): {error['message']}: {error['details']}"
        for node_id, node in answer["node_errors"].items()
        for error in node["errors"]
    ]
    if lines:
        return "\n".join(lines)
    return f"{answer['error']['message']} {answer['error']['details']}".strip()


def _raise_on_failure(entry: dict[str, Any]) -> None:
    """Raise HostError when a history entry is that of a failed or interrupted prompt."""
    for event, detail in entry["status"]["messages"]:
        if event == "execution_error":
            where = f"{detail['node_type']} (node {detail['node_id']})"
            kind, message = detail["exception_type"], detail["exception_message"].strip()
            raise HostError(f"{where}: {kind}: {message}")
        if event == "execution_interrupted":
            raise HostError(f"interrupted at {detail['node_type']} (node {detail['node_id']})")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="comfy_host",
        description="Serve ComfyUI with the Siamese-Diffusion nodes until Ctrl-C.",
        epilog="Any further flag goes to ComfyUI's main.py.",
    )
    parser.add_argument("--base", required=True, help="folder of models, input and output")
    parser.add_argument("--port", type=int, default=8188, help="0 takes a free one (%(default)s)")
    names = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
    parser.add_argument("--workflow", choices=names, help="the page opens with this workflow")
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI choose its device")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve in the foreground. Exit code: 0 after Ctrl-C, 2 for no start, else ComfyUI's."""
    arguments, flags = _parser().parse_known_args(argv)
    host = ComfyHost(arguments.base, port=arguments.port, flags=flags, cpu=not arguments.gpu)
    # `kill` too must end ComfyUI, not leave it behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Ignored otherwise where a shell has started us in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print("Starting ComfyUI ...", flush=True)
        with host:
            url = host.workflow_url(arguments.workflow) if arguments.workflow else host.url
            print(f"Open {url} in a browser. Ctrl-C stops it. Log: {host.log}", flush=True)
            return host.process.wait() if host.process else 0
    except HostError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
