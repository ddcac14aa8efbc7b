"""A probe in a network namespace with two ways to one server: `eth0`, and the link under test, `wwan0`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.netns import Namespace, Run, veth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 60.0
SERVER = "10.9.0.1"
OWN_ADDRESS = "10.2.0.2"
_MEASURE = Path(__file__).with_name("measure.py")
_TUN_CABLE = Path(__file__).with_name("tun_cable.py")


class Task:
    """A measurement under way in the probe's namespace."""

    def __init__(self, process: subprocess.Popen[bytes], task: dict[str, object]) -> None:
        self.process = process
        assert process.stdin is not None
        process.stdin.write(json.dumps(task).encode())
        process.stdin.close()
        process.stdin = None

    def answer(self) -> dict[str, Any]:
        with self.process:
            stdout, stderr = self.process.communicate(timeout=PATIENCE_S)
        assert stdout, stderr.decode()
        found: dict[str, Any] = json.loads(stdout)
        return found


class Site:
    """`wwan0` is shaped to 40/15 Mbit/s; `eth0` is not, and has the default route with the better metric."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.probe, self.net = run.namespace("probe"), run.namespace("net")
        veth(self.probe, "eth0", self.net, "office")
        veth(self.probe, "wwan0", self.net, "cell")
        self.probe.ip(
            "address add 10.1.0.2/24 dev eth0",
            f"address add {OWN_ADDRESS}/24 dev wwan0",
            "route add default via 10.1.0.1 dev eth0 metric 100",
            "route add default via 10.2.0.1 dev wwan0 metric 700",
        )
        self.net.ip(
            "address add 10.1.0.1/24 dev office",
            "address add 10.2.0.1/24 dev cell",
            f"address add {SERVER}/32 dev lo",
        )
        self.shape(self.net, "cell", 40)
        self.shape(self.probe, "wwan0", 15)
        self._servers: list[subprocess.Popen[bytes]] = []

    def shape(self, namespace: Namespace, device: str, mbits: float) -> None:
        """Limit what leaves by a device, in frames as a modem would see them."""
        namespace.ip(f"link set {device} gso_max_segs 1")
        tbf = ["tbf", "rate", f"{mbits}mbit", "burst", "16kb", "latency", "100ms"]
        namespace.run(["tc", "qdisc", "replace", "dev", device, "root", *tbf])

    def serve(self, *ports: int, once: bool = True) -> list[subprocess.Popen[bytes]]:
        """Start iperf3 servers and wait until they listen."""
        return [self.serve_in(self.net, port, once=once) for port in ports]

    def serve_in(self, namespace: Namespace, port: int, *, once: bool = True) -> subprocess.Popen[bytes]:
        """Start an iperf3 server somewhere else."""
        command = ["iperf3", "-s", *(["-1"] if once else []), "-i", "0", "--forceflush", "-p", str(port)]
        server = namespace.popen(command, stdout=subprocess.PIPE)
        self._servers.append(server)
        assert any(b"Server listening" in line for line in server.stdout)
        return server

    def background(self, command: list[str]) -> None:
        """Start something on the probe that ends with the site."""
        self._servers.append(self.probe.popen(command, stdout=subprocess.PIPE))

    def tun_cable(self, near: str, far: str) -> None:
        """Lay a point-to-point cable, a TUN device on the probe and one in the network, at 40/15 Mbit/s."""
        cable = self.probe.popen([sys.executable, str(_TUN_CABLE), near, far], stdout=subprocess.PIPE)
        self._servers.append(cable)
        assert cable.stdout.readline() == b"ready\n"
        self.probe.ip(f"link set {far} netns {self.net.name}")
        self.shape(self.net, far, 40)
        self.shape(self.probe, near, 15)

    def echo(self) -> subprocess.Popen[bytes]:
        """Start an irtt server."""
        server = self.net.popen(["irtt", "server", "-b", f"{SERVER}:2112"], stdout=subprocess.PIPE)
        self._servers.append(server)
        assert any(b"starting IPv4 listener" in line for line in server.stdout)
        return server

    def start(self, **task: object) -> Task:
        """Begin a measurement over wwan0."""
        defaults = {"measurement": "throughput", "interface": "wwan0", "host": SERVER, "ports": [5201, 5202]}
        process = self.probe.popen(
            [sys.executable, str(_MEASURE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return Task(process, defaults | {"options": {"duration_s": 1, "upload": False}} | task)

    def measure(self, **task: object) -> dict[str, Any]:
        """Make a measurement over wwan0."""
        return self.start(**task).answer()

    def carried(self) -> dict[str, int]:
        """Count what every interface of the probe has carried, both ways."""
        rows = [row.partition(":") for row in self.probe.run(["cat", "/proc/net/dev"]).splitlines()[2:]]
        return {name.strip(): int(counts.split()[0]) + int(counts.split()[8]) for name, _, counts in rows}

    def carried_bytes(self, device: str = "wwan0", way: str = "rx") -> int:
        return int(self.probe.run(["cat", f"/sys/class/net/{device}/statistics/{way}_bytes"]))

    def wait_for_bytes(self, byte_count: int, way: str = "rx") -> None:
        """Wait until wwan0 has carried so many more bytes."""
        wanted = self.carried_bytes(way=way) + byte_count
        deadline_s = time.monotonic() + PATIENCE_S
        while self.carried_bytes(way=way) < wanted:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)

    def programs(self) -> list[str]:
        """Name what runs in the probe's namespace."""
        pids = self.probe.run(["ip", "netns", "pids", self.probe.name]).split()
        lines = [Path(f"/proc/{pid}/cmdline") for pid in pids]
        return [line.read_bytes().replace(b"\0", b" ").decode() for line in lines if line.exists()]

    def close(self) -> None:
        for server in self._servers:
            server.kill()
            with server:
                pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Run() as run:
        made = Site(run)
        yield made
        made.close()


@pytest.fixture
def two_sites() -> Iterator[tuple[Site, Site]]:
    with Run() as one, Run() as other:
        sites = Site(one), Site(other)
        yield sites
        for site in sites:
            site.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """Start iperf3 servers on the loopback; each call returns its port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        command = ["iperf3", "-s", "-i", "0", "--forceflush", "-B", "127.0.0.1", "-p", str(port), *options]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        started.append(server)
        assert server.stdout is not None
        assert any(b"Server listening" in line for line in server.stdout)
        return port

    yield start
    for server in started:
        server.kill()
        with server:
            pass


@pytest.fixture
def silent_host() -> Iterator[int]:
    """Somebody who takes connections and says nothing; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    accepted.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in accepted:
            one.close()
