"""A probe and a server with one shaped cable between them, and what the cable carried, moment by moment.

No relay stands between: what the shapers (`tc tbf`) let through is limited by nothing else, up to some hundred Mbps.
"""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

from lab.cell import shaper
from lab.netns import NetworkError, veth

if TYPE_CHECKING:
    from lab.netns import Namespace, Run

Direction = Literal["down", "up"]

SERVER: Final = "198.18.0.1"
DEVICE: Final = "wwan0"
_FAR_DEVICE: Final = "cell"
_LISTENS_WITHIN_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.02
_STEPS: Final = 2
_DATA_SHARE: Final = 0.2
"""Acknowledgements of the other direction's transfer are a few per cent of what data is."""


class Shaped:
    """`wwan0` in the probe's namespace, `cell` in the server's; each shapes what it sends."""

    def __init__(self, run: Run) -> None:
        self.probe, self.core = run.namespace("probe"), run.namespace("core")
        veth(self.probe, DEVICE, self.core, _FAR_DEVICE)
        self.probe.ip(f"address add 198.18.0.2/24 dev {DEVICE}", f"link set {DEVICE} gso_max_segs 1")
        self.core.ip(f"address add {SERVER}/24 dev {_FAR_DEVICE}", f"link set {_FAR_DEVICE} gso_max_segs 1")
        for namespace in (self.probe, self.core):  # else a test starts from the last one's threshold
            namespace.sysctl(net__ipv4__tcp_no_metrics_save=1)

    def set_rate(self, mbps: float) -> None:
        """Shape both directions, on layer 2."""
        self.probe.tc("qdisc", "replace", "dev", DEVICE, "root", *shaper.tbf(mbps))
        self.core.tc("qdisc", "replace", "dev", _FAR_DEVICE, "root", *shaper.tbf(mbps))

    def serve(self, *ports: int) -> None:
        """Start iperf3 servers that stay; raise NetworkError if one does not listen."""
        for port in ports:
            command = ["iperf3", "-s", "-i", "0", "--forceflush", "-p", str(port)]
            server: subprocess.Popen[Any] = self.core.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said = server.stdout
            if said is None:
                raise AssertionError("a pipe was asked for")
            listens = any(b"Server listening" in line for line in said)
            threading.Thread(target=_drain, args=(said,), daemon=True).start()
            if not listens:
                raise NetworkError(f"iperf3 does not listen on port {port}")


class Carried(NamedTuple):
    """What left one end of the cable by some moment, on layer 2 and behind its shaper."""

    at_s: float
    sent_bytes: int


class Watch:
    """Notes what both ends send, fifty times a second; a context manager."""

    def __init__(self, link: Shaped) -> None:
        self._ends: dict[Direction, tuple[Namespace, str]] = {
            "down": (link.core, _FAR_DEVICE),
            "up": (link.probe, DEVICE),
        }
        self._seen: dict[Direction, list[Carried]] = {"down": [], "up": []}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(way,), daemon=True) for way in self._ends]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def payload_mbps(self, way: Direction, *, omit_s: float, length_s: float) -> tuple[float, float]:
        """Say what was let through as TCP payload in the one transfer of this direction.

        First after `omit_s`, then from its first byte; in Mbps, at 1448 bytes of payload in a frame of 1514. Raise
        NetworkError if nothing was.
        """
        seen = self._seen[way]
        grown = [_mbps(one, later) for one, later in zip(seen, seen[_STEPS:], strict=False)]
        if max(grown, default=0.0) == 0.0:
            raise NetworkError(f"nothing was sent {way}")
        begin = next(index for index, mbps in enumerate(grown) if mbps >= _DATA_SHARE * max(grown))
        begun_s = seen[begin].at_s
        end = self._at(way, begun_s + omit_s + length_s)
        return tuple(_mbps(self._at(way, begun_s + left_s), end) for left_s in (omit_s, 0.0))  # type: ignore[return-value]

    def _at(self, way: Direction, at_s: float) -> Carried:
        return min(self._seen[way], key=lambda one: abs(one.at_s - at_s))

    def _watch(self, way: Direction) -> None:
        namespace, device = self._ends[way]
        with namespace.inside():
            table = Path("/proc/thread-self/net/dev")
            while not self._over.wait(_LOOK_EVERY_S):
                rows = table.read_text(encoding="ascii").splitlines()
                row = next(row for row in rows if row.strip().startswith(f"{device}:"))
                self._seen[way].append(Carried(time.monotonic(), int(row.partition(":")[2].split()[8])))


def _drain(said: IO[bytes]) -> None:
    """Read what a server goes on to say, so that it never waits for us."""
    with said:
        while said.read(4096):
            pass


def _mbps(one: Carried, other: Carried) -> float:
    share = shaper.SEGMENT_BYTES / shaper.FRAME_BYTES
    return (other.sent_bytes - one.sent_bytes) * share * 8 / max(other.at_s - one.at_s, _LOOK_EVERY_S) / 1e6
