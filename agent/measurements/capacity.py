"""UDP capacity: how much a link lets through when more is sent than it can carry. iperf3, one direction, a few seconds.

Another question than throughput: what the radio could give at its best, not what a user's download gets (RFC 9097 asks
it with a search of its own, and takes the best second). It floods the link, spends as much as a throughput test, and is
no part of any verdict: now and then at most.

Without a rate it is searched for: half as much again as the link's last test brought; if all of that got through, four
times as much. Where less arrived than was to be sent, the link was full, and what arrived is its capacity.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from agent import path as paths
from agent.measurements import family, iperf_report, throughput
from agent.measurements.base import MeasurementFailed, require_up, run_killable
from agent.measurements.throughput_options import (
    KILL_AFTER_S,
    PAUSE_S,
    PROBE_TIMEOUT_S,
    USUAL_MBPS,
    WIND_UP_S,
)
from wire.measured import Capacity
from wire.reasons import Reason

if TYPE_CHECKING:
    from agent.measurements.iperf_report import Report, Sum
    from agent.measurements.throughput import Terms
    from agent.path import LinkPath
    from wire.results import Server

PAYLOAD_BYTES: Final = 1200
"""Of one datagram: fits every path that carries IPv6 (RFC 8200: 1280 bytes), so that none is cut into fragments."""
FULL_SHARE: Final = 0.9
"""A link that brings less of what was to be sent is full. The sender itself may be held back by a full queue."""
_FIRST_TIMES: Final = 1.5
_THEN_TIMES: Final = 4.0
_MOST_MBPS: Final = 600.0
_SUB_INTERVAL_S: Final = 1.0
_WHOLE_SUB_INTERVAL_S: Final = 0.9


class CapacityOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to test. A transfer is short: while it runs its control connection is silent, and a responder waits 6.5 s."""

    direction: Literal["download", "upload"] = "download"
    rate_mbps: Annotated[float, msgspec.Meta(ge=1, le=1000)] | None = None
    duration_s: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    connect_timeout_s: Annotated[float, msgspec.Meta(ge=0.5, le=30)] = 5
    family: Literal["auto", "ipv4", "ipv6"] = "ipv4"

    @property
    def transfers(self) -> int:
        """How many single-use servers a run may need."""
        return 1 if self.rate_mbps is not None else 2

    @property
    def deadline_s(self) -> float:
        """When one transfer is cut off, counted from its start."""
        return self.duration_s + self.connect_timeout_s + WIND_UP_S

    @property
    def longest_s(self) -> float:
        """How long a whole run can take at worst: what a lease must last."""
        return self.transfers * (self.deadline_s + KILL_AFTER_S + PROBE_TIMEOUT_S) + PAUSE_S


def run(path: LinkPath, server: Server, options: CapacityOptions, terms: Terms) -> Capacity:
    """Measure over `path`; raise MeasurementFailed. Takes at most `options.longest_s`; leaves no process behind."""
    require_up(path)
    path, address = family.choose(path, server.host, options.family)
    left_bytes = terms.left_bytes
    rate_mbps = options.rate_mbps or min(_MOST_MBPS, _FIRST_TIMES * (terms.last_mbps or USUAL_MBPS))
    for tries in range(1, options.transfers + 1):
        if tries > 1:
            time.sleep(PAUSE_S)
        port = server.ports[min(tries, len(server.ports)) - 1]
        before = paths.counters()
        asked: dict[str, object] = {
            "left_bytes": left_bytes,
            "login": terms.login._asdict() if terms.login is not None else None,
            "udp": {"payload_bytes": PAYLOAD_BYTES, "rate_bps": round(rate_mbps * 1e6)},
        }
        report = _transfer(path, (address, port), options, asked)
        own, _ = throughput.carried(path.interface, before, paths.counters())
        found = read(report, options, rate_mbps, tries=tries)
        received = own.received_bytes if options.direction == "download" else own.sent_bytes
        if received < found.payload_bytes:
            raise MeasurementFailed(
                Reason.WRONG_PATH, f"{path.interface} carried {received} of {found.payload_bytes} bytes", begun=True
            )
        found = msgspec.structs.replace(found, interface_bytes=own.both_bytes, family=family.of(address))
        if found.full or tries == options.transfers:
            break
        left_bytes = max(0, left_bytes - own.both_bytes) if left_bytes is not None else None
        rate_mbps = min(_MOST_MBPS, _THEN_TIMES * rate_mbps)
    return found


def read(report: Report, options: CapacityOptions, rate_mbps: float, *, tries: int) -> Capacity:
    """Turn a report without error into figures; raise MeasurementFailed if there are none, or the plan cut it short.

    The receiver's counters (`end.sum_received`): the sender's tell what was lost as if it had arrived. The best second
    is known of downloads only: an upload's receiver is the server, which tells no intervals.
    """
    received = report.end.sum_received
    if report.quota_reached:
        raise MeasurementFailed(Reason.QUOTA_REACHED, "the plan's room was used up during the test", begun=True)
    if received is None or received.seconds <= 0 or received.bytes <= 0:
        raise MeasurementFailed(Reason.TIMEOUT, "no datagram arrived; is UDP open on the server's ports?", begun=True)
    mbps = iperf_report.mbps(received.bytes, received.seconds)
    best = [iperf_report.mbps(one.bytes, one.seconds) for one in _whole_seconds(report)]
    return Capacity(
        direction=options.direction,
        received_mbps=mbps,
        best_second_mbps=max(best) if best and options.direction == "download" else None,
        asked_mbps=rate_mbps,
        full=mbps < FULL_SHARE * rate_mbps,
        loss_percent=round(received.lost_percent, 2) if received.lost_percent is not None else None,
        jitter_ms=round(received.jitter_ms, 3) if received.jitter_ms is not None else None,
        payload_bytes=received.bytes,
        elapsed_s=round(received.seconds, 3),
        tries=tries,
    )


def _whole_seconds(report: Report) -> list[Sum]:
    return [one.sum for one in report.intervals if one.sum.seconds >= _WHOLE_SUB_INTERVAL_S]


def _transfer(path: LinkPath, server: tuple[str, int], options: CapacityOptions, asked: dict[str, object]) -> Report:
    """Run one transfer; `asked`: what differs from one to the next."""
    where = f"UDP {options.direction}, {server[0]}:{server[1]}"
    job = {
        "host": server[0],
        "port": server[1],
        "reverse": options.direction == "download",
        "source": path.source_address,
        "device": path.interface,
        "duration_s": options.duration_s,
        "omit_s": 0,
        "streams": 1,
        "interval_s": _SUB_INTERVAL_S,
        "connect_timeout_s": options.connect_timeout_s,
        "receive_timeout_s": throughput.RECEIVE_TIMEOUT_S,
        "deadline_s": options.deadline_s,
        **asked,
    }
    finished = run_killable(
        throughput.CHILD, deadline_s=options.deadline_s + KILL_AFTER_S, stdin=json.dumps(job).encode()
    )
    return throughput.answer(finished, path, server, where)
