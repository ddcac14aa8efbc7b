"""Processes of the responder: single-use iperf3 servers, and whatever else it keeps running.

Each has a process group of its own, dies when the thread that started it does (prctl(2) PR_SET_PDEATHSIG, set by
setpriv(1): a responder that is killed leaves no orphan), and never blocks on output that nobody reads.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LISTENING: Final = b"Server listening on "
_START_TIMEOUT_S: Final = 3.0
_KEEP_BYTES: Final = 2000
_DEBIAN_PACKAGES: Final = {"iperf3": "iperf3", "irtt": "irtt", "setpriv": "util-linux"}


class ServerError(Exception):
    """A server process cannot be started or does not listen; the text says why."""


class PortTaken(ServerError):
    """Somebody else listens on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is in use by another program")
        self.port = port


class Child:
    """A running process. Start and poll it from one thread, which must live as long as the process shall."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it; raise ServerError."""
        try:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except OSError as error:
            raise ServerError(f"{command[0]}: {error.strerror or error}") from error
        if self._process.stdout is None:
            raise AssertionError("a pipe was asked for")
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._said = b""

    @property
    def pid(self) -> int:
        """Its number, which is also its group's."""
        return self._process.pid

    def ended(self) -> bool:
        """Whether it has ended by itself. Reads its output, so that it never waits for us."""
        self._read()
        return self._process.poll() is not None

    def has_said(self, text: str) -> bool:
        """Whether the end of its output holds `text`."""
        return text.encode() in self._said

    def last_words(self) -> str:
        """Return the last line it wrote that says something."""
        lines = [line.strip() for line in self._said.decode("utf-8", "replace").splitlines()]
        return next((line for line in reversed(lines) if line.strip("- ")), "nothing")

    def wait_for(self, text: bytes, *, timeout_s: float) -> bool:
        """Wait until it has written `text`; False if it ended or the time went by first."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self._said:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self._output], [], [], left_s)[0] or not self._read():
                return text in self._said
        return True

    def kill(self) -> None:
        """Kill its whole group and wait until it is gone. Can be repeated."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._read()
        self._output.close()

    def _read(self) -> bool:
        """Take what it has written; False at the end of its output."""
        if self._output.closed:
            return False
        while True:
            try:
                chunk = os.read(self._output.fileno(), 65536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._said = (self._said + chunk)[-_KEEP_BYTES:]


class Server(Child):
    """One iperf3 server for one transfer (`-1`), after which it ends."""

    def __init__(self, port: int, bind_address: str | None) -> None:
        self.port = port
        bind = ["-B", bind_address] if bind_address is not None else []
        # -i 0: no line per second and stream; --forceflush: "Server listening" at once, into a pipe too.
        super().__init__(["iperf3", "-s", "-1", "-i", "0", "--forceflush", "-p", str(port), *bind])

    def wait_until_listening(self) -> None:
        """Return when clients may connect; raise PortTaken or ServerError."""
        if self.wait_for(_LISTENING, timeout_s=_START_TIMEOUT_S):
            return
        if self.ended() and self.has_said("in use"):
            raise PortTaken(self.port)
        raise ServerError(f"iperf3 on port {self.port} does not listen; it said: {self.last_words()}")


def start(ports: Iterable[int], bind_address: str | None) -> list[Server]:
    """Start one server per port and wait until all of them listen; raise PortTaken or ServerError, and leave none."""
    servers: list[Server] = []
    try:
        servers.extend(Server(port, bind_address) for port in ports)
        for server in servers:
            server.wait_until_listening()
    except BaseException:
        for server in servers:
            server.kill()
        raise
    return servers


def is_free(port: int, bind_address: str | None) -> bool:
    """Whether a TCP server could listen there now."""
    family = socket.AF_INET6 if ":" in (bind_address or ":") and socket.has_ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # as iperf3 does: both families at once
            probe.bind((bind_address or ("::" if family == socket.AF_INET6 else "0.0.0.0"), port))  # noqa: S104  # the servers' own default
            probe.listen(1)
    except OSError:
        return False
    return True


def missing_tools(names: Iterable[str]) -> list[str]:
    """Say for each tool that is not installed how to get it."""
    return [
        f"{name} is not installed; run: apt install {_DEBIAN_PACKAGES[name]}"
        for name in names
        if shutil.which(name) is None
    ]
