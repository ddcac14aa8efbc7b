"""The broker's other side, the responder's process, and looks into the kernel, for the responder's tests."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from wire import codec, topics
from wire.leases import Busy, Granted, LeaseReply, LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.servers import Mosquitto

PATIENCE_S = 20.0


def wait_until(condition: Callable[[], object], *, timeout_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def listens(port: int) -> bool:
    """Whether somebody listens there: read from the kernel, since a connection would use up a single-use server."""
    wanted = f"{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            local, _remote, state = row.split()[1:4]
            if local.rpartition(":")[2] == wanted and state == "0A":
                return True
    return False


class Probe:
    """A probe's side of the lease conversation."""

    def __init__(self, broker: Mosquitto, name: str, password: str) -> None:
        self.name = name
        self.heard: queue.Queue[bytes] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name)
        self._client.username_pw_set(name, password)
        self._client.on_message = lambda _client, _userdata, message: self.heard.put(message.payload)
        self._client.connect(broker.host, broker.port)
        self._subscribed: queue.Queue[int] = queue.Queue()
        self._client.on_subscribe = lambda _client, _userdata, mid, *_: self._subscribed.put(mid)
        self._client.loop_start()
        self.listen(topics.topic(name, topics.LEASE_GRANT))

    def listen(self, topic: str) -> None:
        self._client.subscribe(topic, qos=1)
        self._subscribed.get(timeout=PATIENCE_S)

    def say(self, payload: bytes, *, retain: bool = False) -> None:
        topic = topics.topic(self.name, topics.LEASE_REQUEST)
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(PATIENCE_S)

    def ask(
        self,
        request_id: str,
        length_s: float = 30.0,
        transfers: int = 2,
        *,
        wait_s: float = PATIENCE_S,
        **more: Any,  # noqa: ANN401  # any field
    ) -> LeaseReply:
        self.request(request_id, length_s, transfers, **more)
        return self.reply(wait_s)

    def request(self, request_id: str, length_s: float = 30.0, transfers: int = 2, **more: Any) -> None:  # noqa: ANN401  # any field
        """Ask without waiting for the answer."""
        request = LeaseRequest(
            request_id=request_id, probe_id=self.name, link="viettel", length_s=length_s, transfers=transfers, **more
        )
        self.say(codec.encode(request))

    def reply(self, wait_s: float = PATIENCE_S) -> LeaseReply:
        return codec.decode_lease_reply(self.heard.get(timeout=wait_s))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Responder:
    """The real command in a process of its own."""

    def __init__(self, config: Path, log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "responder.cli", "run", "--config", str(config)], stdout=file, stderr=file
            )

    def wait_until_heard(self, probe: Probe, *, name: str | None = None) -> None:
        """Ask until somebody (of that name) answers: the subscription is made some time after the start."""
        for number in range(200):
            assert self.process.poll() is None, self.log.read_text()
            request = LeaseRequest(
                request_id=f"hello-{number}",
                probe_id=probe.name,
                link="x",
                length_s=600,
                transfers=4,
                operator="none",
                cell="none",
                responder=name,
            )
            probe.say(codec.encode(request))
            try:
                if not isinstance(probe.reply(wait_s=0.2), Busy):  # busy: its group has not settled
                    break
            except queue.Empty:
                continue
            time.sleep(0.2)
        else:
            pytest.fail(self.log.read_text())
        time.sleep(0.2)
        while not probe.heard.empty():
            probe.heard.get()

    def children(self) -> dict[int, str]:
        """Name the processes it has started, by pid."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [int(pid) for pid in children.read_text(encoding="ascii").split()]
        found = {}
        for pid in pids:
            try:
                found[pid] = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
            except OSError:
                continue
        return {pid: name for pid, name in found.items() if is_running(pid)}

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def _command(port: int, granted: Granted | None, seconds: int) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Name a client's command and environment, with the login of its lease if it has one."""
    command = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(seconds), "-b", "20M", "-J"]
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as key:
        environment = dict(os.environ)
        if granted is not None and granted.user:
            key.write(granted.public_key)
            key.flush()
            command += ["--username", granted.user, "--rsa-public-key-path", key.name]
            environment["IPERF3_PASSWORD"] = granted.token
        yield command, environment


def iperf3(port: int, *more: str, granted: Granted | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a short real client."""
    with _command(port, granted, 1) as (command, environment):
        return subprocess.run([*command, *more], capture_output=True, timeout=PATIENCE_S, check=False, env=environment)


@contextlib.contextmanager
def client(port: int, granted: Granted, *more: str, seconds: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a longer real client that is killed in the end."""
    with _command(port, granted, seconds) as (command, environment):
        process = subprocess.Popen(
            [*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def echo_answers(port: int) -> bool:
    """Whether irtt takes a client there."""
    command = ["irtt", "client", "-n", "-Q", f"127.0.0.1:{port}"]
    return subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False).returncode == 0
