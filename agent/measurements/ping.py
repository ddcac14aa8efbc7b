"""Round trips by ICMP, TCP and HTTP, and the path MTU, to a host that needs no server of ours.

HTTP is i-Speed's way to ping (speedtest.vn/phuong-phap-do): one kept connection, an empty file fetched again and again,
timed from the request to the reply; so its figures stand beside i-Speed's, and ICMP's do not.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec

from agent import path as paths
from agent import resolver
from agent.measurements import bound, carried, http_client, icmp, jitter, mtu
from agent.measurements.base import MeasurementFailed, require_up
from agent.measurements.family import choose, of
from agent.measurements.http_client import Url
from agent.measurements.throughput_options import Family
from wire.measured import Ping
from wire.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.path import LinkPath
    from wire.measured import Echo

log = logging.getLogger(__name__)

T = TypeVar("T")

_TOTAL_RETRANS: Final = struct.Struct("=100xI")
"""tcpi_total_retrans in `struct tcp_info` (linux/tcp.h)."""


class PingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to ask for. The defaults, ICMP alone, cost some 2 kB; TCP 4 kB, HTTP 5 kB, the MTU 4 to 60 kB.

    `tcp_port`: time connections to that port. `http_url`: an empty or small file. `mtu`: look for the path MTU, of IPv4
    whatever `family` says.
    """

    count: Annotated[int, msgspec.Meta(ge=2, le=100)] = 10
    interval_ms: Annotated[int, msgspec.Meta(ge=200, le=2000)] = 200
    timeout_s: Annotated[float, msgspec.Meta(ge=0.5, le=10)] = 2
    icmp: bool = True
    tcp_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    http_url: Url | None = None
    mtu: bool = False
    family: Family = "ipv4"
    ca_file: Path | None = None

    @property
    def needs_host(self) -> bool:
        """Whether a host is pinged, or only a URL."""
        return self.icmp or self.tcp_port is not None or self.mtu


def run(path: LinkPath, host: str | None, options: PingOptions) -> Ping:
    """Measure what is asked for, one after the other; raise MeasurementFailed if nothing ever came back.

    Each has a deadline of its own: TCP and HTTP `http_client.PINGS_LONGEST_S` for the last of `count` to begin, the MTU
    `mtu.LONGEST_S`, ICMP its `count` and some seconds.
    """
    require_up(path)
    before = paths.counters()
    over, address = path, None
    if host is not None and options.needs_host:
        over, address = choose(path, host, options.family)
    interval_s, port, url = options.interval_ms / 1e3, options.tcp_port, options.http_url
    attempts = _Attempts(path.interface)
    by_icmp = by_tcp = by_http = found_mtu = None
    if address is not None and options.icmp:
        by_icmp = attempts.make(
            "icmp", lambda: icmp.ping(path.interface, address, count=options.count, interval_s=interval_s)
        )
    if address is not None and port is not None:
        by_tcp = attempts.make("tcp", lambda: _tcp(over, (address, port), options))
    if url is not None:
        by_http = attempts.make("http", lambda: _http(path, url, options))
    if host is not None and options.mtu:
        found_mtu = attempts.make("mtu", lambda: mtu.find(path, resolver.resolve(path, host)))
    if found_mtu is None and not any(echo is not None and echo.received for echo in (by_icmp, by_tcp, by_http)):
        raise attempts.first or MeasurementFailed(Reason.TIMEOUT, f"{address or url}: nothing came back", begun=True)
    return Ping(
        icmp=by_icmp,
        tcp=by_tcp,
        http=by_http,
        mtu=found_mtu,
        failures=attempts.failures,
        family=of(address) if address is not None else None,
        interface_bytes=carried.since(path.interface, before),
    )


class _Attempts:
    """What was tried, and why some of it failed."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self.first: MeasurementFailed | None = None
        self.failures: dict[str, Reason] = {}

    def make(self, name: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except MeasurementFailed as failure:
            log.info("%s: no %s figures: %s", self._interface, name, failure)
            self.first = self.first or failure
            self.failures[name] = failure.reason
            return None


def _tcp(path: LinkPath, server: tuple[str, int], options: PingOptions) -> Echo:
    """Time connections, from the first packet to the server's answer; each is closed at once.

    A connection whose first packet had to be sent again is a lost round trip: its time would tell of the timer.
    """
    rtts_ms: list[float | None] = []
    begun_s = time.monotonic()
    for number in range(options.count):
        time.sleep(max(0.0, begun_s + number * options.interval_ms / 1e3 - time.monotonic()))
        if time.monotonic() > begun_s + http_client.PINGS_LONGEST_S:
            break
        try:
            rtts_ms.append(_connect_ms(path, server, options.timeout_s))
        except TimeoutError:
            rtts_ms.append(None)
        except OSError as error:
            told = f"{server[0]}:{server[1]}: {error.strerror or error}"
            raise MeasurementFailed(Reason(bound.trouble(error)), told) from error
    return jitter.echo("tcp", rtts_ms)


def _connect_ms(path: LinkPath, server: tuple[str, int], timeout_s: float) -> float | None:
    family = bound.family_of(server[0])
    with bound.open_socket(path.interface, path.source_address, socket.SOCK_STREAM, family) as door:
        door.settimeout(timeout_s)
        begun_s = time.monotonic()
        door.connect(server)
        took_ms = (time.monotonic() - begun_s) * 1e3
        (again,) = _TOTAL_RETRANS.unpack(door.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS.size))
    return None if again else took_ms


def _http(path: LinkPath, url: str, options: PingOptions) -> Echo:
    """Time GETs on one kept connection, from the request to the reply's first byte; connecting is not timed."""
    over, address = choose(path, http_client.parts_of(url).host, options.family)
    answer = http_client.ping(
        over,
        url,
        address,
        count=options.count,
        interval_s=options.interval_ms / 1e3,
        timeout_s=options.timeout_s,
        ca_file=options.ca_file,
    )
    if answer.failure is not None and not any(rtt_ms is not None for rtt_ms in answer.rtts_ms):
        raise MeasurementFailed(answer.failure, f"{url}: {answer.detail}")
    return jitter.echo("http", answer.rtts_ms)
