"""The processes of a run tell each other how they end, so that none waits for one that is gone."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import selectors
import socket
import time
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ...common.arguments import FAILED, say
from ...common.errors import MessageError
from ...common.text import one_line, shortened
from ..errors import TrainingError

log = logging.getLogger(__name__)

CONNECT_SECONDS = 30
GRACE_SECONDS: float = 10  # for a process to end by itself once another has ended
# A machine that is gone is missed after IDLE + COUNT * INTERVAL seconds. The system does this, so
# that a process which is busy is not taken for one that has ended.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
DONE = "done"
LONGEST_REASON = 1000  # characters
LONGEST_MESSAGE = 1 << 14  # bytes


class Peers:
    """Within it every process knows within a minute that another has ended, and why.

    Each has a connection to the first one, which passes on what it hears. Where an error comes from
    another process that is gone, TrainingError with that one's reason takes its place. A process
    that is waiting for such a one, and so cannot raise anything, ends with that message and exit
    code 1.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._count, self._rank = accelerator.num_processes, accelerator.process_index
        self._peers: dict[socket.socket, str] = {}  # name by connection
        self._reason = ""  # why another has ended
        self._heard, self._finished = Event(), Event()

    def __enter__(self) -> Peers:
        if self._count > 1:
            try:
                self._connect()
            except OSError as error:
                log.warning("Note: processes cannot tell each other how they end (%s).", error)
            Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self, _kind: object, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._count == 1:
            return
        # What a library raises may be how another process's end shows here.
        symptom = isinstance(error, RuntimeError) and not isinstance(error, MessageError)
        if symptom:
            self._heard.wait(GRACE_SECONDS / 2)
        self._finished.set()
        if error is None:
            self._tell(DONE)
        elif not self._reason:
            self._tell(_shown(f"{_name(self._rank)} has failed: {error or type(error).__name__}"))
        elif symptom:
            raise TrainingError(self._reason) from error

    def _connect(self) -> None:
        """The first process listens, for those who know a secret that it has sent to all."""
        server = _listening() if self._rank == 0 else None
        offer = [(server.getsockname()[1], secrets.token_hex(16)) if server else None]
        port, secret = broadcast_object_list(offer)[0]
        if server is None:
            address = (os.environ.get("MASTER_ADDR", "localhost"), port)
            connection = socket.create_connection(address, CONNECT_SECONDS)
            connection.sendall(f"{secret} {_name(self._rank)}\n".encode())
            self._add(connection, _name(0, ""))
            return
        deadline = time.monotonic() + CONNECT_SECONDS
        with server:
            while len(self._peers) < self._count - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                connection, _ = server.accept()
                connection.settimeout(CONNECT_SECONDS)
                given, _, name = _read_line(connection).partition(" ")
                if hmac.compare_digest(given.encode(), secret.encode()):
                    self._add(connection, _shown(name))
                else:
                    connection.close()

    def _add(self, connection: socket.socket, name: str) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._peers[connection] = name

    def _tell(self, message: str) -> None:
        for connection in self._peers:
            with suppress(OSError):
                connection.sendall(f"{message}\n".encode())

    def _listen(self) -> None:
        """Until all others are done, or one has ended otherwise."""
        with selectors.DefaultSelector() as waiting:
            for connection in self._peers:
                waiting.register(connection, selectors.EVENT_READ)
            while waiting.get_map():
                for key, _ in waiting.select():
                    said = _read_line(key.fileobj)  # type: ignore[arg-type]
                    if said != DONE:
                        self._end(said, self._peers[key.fileobj])  # type: ignore[index]
                        return
                    waiting.unregister(key.fileobj)

    def _end(self, said: str, name: str) -> None:
        self._reason = _shown(said) or (
            f"{name} has ended without a word: it was killed, as when memory runs out, or its "
            "machine or the network is gone. The same command resumes from the last state."
        )
        self._heard.set()
        if self._rank == 0:
            self._tell(self._reason)
        if not self._finished.wait(GRACE_SECONDS):
            say(self._reason)
            os._exit(FAILED)


def _listening() -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", 0), family=family, dualstack_ipv6=both)


def _read_line(connection: socket.socket) -> str:
    """What was sent up to the end of the line; "" where the connection ends first."""
    found = b""
    with suppress(OSError):
        while not found.endswith(b"\n") and len(found) < LONGEST_MESSAGE:
            if not (part := connection.recv(1)):
                return ""
            found += part
        return found.decode("utf-8", "replace").strip()
    return ""


def _name(rank: int, host: str | None = None) -> str:
    host = socket.gethostname() if host is None else host
    return f"process {rank} on {host}" if host else f"process {rank}"


def _shown(text: str) -> str:
    return shortened(one_line(text), LONGEST_REASON)
