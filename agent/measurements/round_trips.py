"""Round trips beside a transfer: before it, on the idle link, and while it runs. By irtt, else by ping.

Echoes take the link's own way or none: irtt binds an address only, so the kernel is asked first which way packets from
it take; ping binds the device. Whatever happens to them, the transfer goes on; without answers there are no figures.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import subprocess
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent import path as paths
from agent.measurements.base import MeasurementFailed, started
from agent.measurements.iperf_report import brief
from base.averages import median
from wire.measured import RoundTrips

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.path import LinkPath

log = logging.getLogger(__name__)

INTERVAL_S: Final = 0.1
ECHO_BYTES: Final = 60 + 28
"""One way of one echo: irtt's smallest packet with both time stamps, UDP and IPv4 headers (ping: 84)."""
LATE_S: Final = 0.5
"""How long the last replies are waited for."""
ENDS_WITHIN_S: Final = 1.5
"""After the word to end: the last replies, and what a busy machine takes to print."""
OPENS_WITHIN_S: Final = 2.0
_OPENS_SOON_S: Final = 0.7
"""What irtt takes to open at a round trip of 600 ms; where there is more time, OPENS_WITHIN_S."""
_OPENING: Final = "1s,1s"
"""An irtt whose question is answered after it has asked once more gives up in silence (0.9.0): no less than a far round
trip."""
_PING_INTERVAL_S: Final = 0.2
"""Shorter ones are root's, with some versions of ping."""
_LEAST: Final = 5
"""Fewer round trips tell nothing."""
_NS_PER_MS: Final = 1e6
_PING_REPLY: Final = re.compile(rb"icmp_seq=(\d+) .*time=([0-9.]+) ms(?!.*DUP)")


class _Delay(msgspec.Struct, frozen=True):
    rtt: int | None = None


class _RoundTrip(msgspec.Struct, frozen=True):
    delay: _Delay = _Delay()


class _Irtt(msgspec.Struct, frozen=True):
    """The part of irtt's JSON that tells each round trip, in nanoseconds (irtt-client(1), JSON format 1)."""

    round_trips: tuple[_RoundTrip, ...] = ()


class Series(NamedTuple):
    """Every echo that came back, of one tool: when it was sent, in s since the first one, and its round trip in ms."""

    tool: str
    echoes: tuple[tuple[float, float], ...] = ()

    def summary(self, from_s: float = 0.0, until_s: float = math.inf) -> RoundTrips | None:
        """Sum up what was sent in this span; None if too few came back."""
        ordered = sorted(rtt_ms for sent_s, rtt_ms in self.echoes if from_s <= sent_s <= until_s)
        if len(ordered) < _LEAST:
            return None
        return RoundTrips(
            tool=self.tool,
            count=len(ordered),
            median_ms=brief(median(ordered)),
            p95_ms=brief(ordered[math.ceil(0.95 * len(ordered)) - 1]),
        )


def read_irtt(payload: bytes) -> Series:
    """Read irtt's JSON; what cannot be read has no round trips."""
    try:
        report = msgspec.json.decode(payload, type=_Irtt)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Series("irtt")
    rtts = enumerate(one.delay.rtt for one in report.round_trips)
    return Series("irtt", tuple((index * INTERVAL_S, rtt / _NS_PER_MS) for index, rtt in rtts if rtt is not None))


def read_ping(output: bytes) -> Series:
    """Read ping's lines, also those of one that was cut off."""
    found = ((int(number), float(rtt_ms)) for number, rtt_ms in _PING_REPLY.findall(output))
    return Series("ping", tuple(((number - 1) * _PING_INTERVAL_S, rtt_ms) for number, rtt_ms in found))


class Echoes:
    """The echoes of one run to one host; remembers which tool the host answers."""

    def __init__(self, path: LinkPath, address: str, port: int | None) -> None:
        """Take the link, the host's numeric address, and the port of its echo server (None: it has none)."""
        self._path, self._address = path, address
        self._irtt_port = port
        self._silent = False
        self._idle: RoundTrips | None = None
        self._asked = False
        self._route_is_known = False

    def idle(self, length_s: float, within_s: float = math.inf) -> RoundTrips | None:
        """Send for `length_s`, which wakes the radio too; None if nothing comes back. Asked again, it remembers.

        Takes at most `idle_within_s`, and at most `within_s`: where that is short fewer are sent, or none.
        """
        length_s = min(length_s, within_s - _OPENS_SOON_S - LATE_S)
        if length_s >= _LEAST * INTERVAL_S and not self._asked:
            self._asked, self._idle = True, self._measure_idle(length_s, min(idle_within_s(length_s), within_s))
        return self._idle

    def _by_irtt(self) -> bool:
        """Whether irtt may be used: it has a server there, and its packets take the link."""
        if self._irtt_port is not None and not self._route_is_known:
            self._route_is_known = True
            source, port = self._path.source_address, self._irtt_port
            if source is None or paths.route_device(self._address, source, udp_port=port) != self._path.interface:
                self._irtt_port = None
        return self._irtt_port is not None

    def _measure_idle(self, length_s: float, within_s: float) -> RoundTrips | None:
        give_up_s = time.monotonic() + within_s
        found = self._series(length_s, give_up_s)
        if found is None and self._irtt_port is not None:
            log.info("%s: no echo server answers on %s; pinging", self._path.interface, self._address)
            self._irtt_port = None
            left_s = min(length_s, give_up_s - time.monotonic() - LATE_S)
            found = self._series(left_s, give_up_s) if left_s > _LEAST * INTERVAL_S else None
        self._silent = found is None
        return found

    @contextlib.contextmanager
    def meanwhile(self, length_s: float) -> Iterator[list[Series]]:
        """Send for `length_s` (0: not at all) beside the body; afterwards the list holds what came back, if anything.

        Takes at most ENDS_WITHIN_S longer than the body; after an exception nothing is waited for. A body that ends
        much sooner than `length_s` leaves no figures: irtt that is interrupted prints none.
        """
        found: list[Series] = []
        with contextlib.ExitStack() as stack:
            process: subprocess.Popen[bytes] | None = None
            if length_s > 0 and not self._silent:
                try:
                    process = stack.enter_context(started(self._command(length_s)))
                except MeasurementFailed as failure:
                    log.warning("%s: no round trips: %s", self._path.interface, failure)
            yield found
            if process is not None:
                found.append(self._read(_output(process, ENDS_WITHIN_S)))

    def _series(self, length_s: float, give_up_s: float) -> RoundTrips | None:
        try:
            with started(self._command(length_s)) as process:
                return self._read(_output(process, give_up_s - time.monotonic())).summary()
        except MeasurementFailed as failure:
            log.warning("%s: no round trips: %s", self._path.interface, failure)
            return None

    def _command(self, length_s: float) -> list[str]:
        family = "-6" if ":" in self._address else "-4"
        if not self._by_irtt():
            sends = ["-i", f"{_PING_INTERVAL_S:g}", "-w", str(max(1, math.ceil(length_s)))]
            return ["ping", family, "-n", "-I", self._path.interface, *sends, self._address]
        host = f"[{self._address}]" if ":" in self._address else self._address
        sends = ["-d", f"{length_s:g}s", "-i", f"{INTERVAL_S * 1000:g}ms", f"--wait={LATE_S * 1000:g}ms"]
        ways = [f"--timeouts={_OPENING}", f"--local={self._path.source_address}", f"{host}:{self._irtt_port}"]
        return ["irtt", "client", "-Q", "-o", "-", family, *sends, *ways]

    def _read(self, output: bytes) -> Series:
        return read_ping(output) if self._irtt_port is None else read_irtt(output)


def idle_within_s(length_s: float) -> float:
    """How long `Echoes.idle` takes at most."""
    return length_s + OPENS_WITHIN_S + LATE_S + ENDS_WITHIN_S if length_s else 0.0


def _output(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """Return what it prints until it ends; one that does not end in time is killed."""
    try:
        return process.communicate(timeout=max(0.0, timeout_s))[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]
