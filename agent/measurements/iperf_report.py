"""iperf3's JSON, read: a Transfer, the reason of a failure, and what speaks against a figure. No I/O, no clock."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Final

import msgspec

from agent.measurements.base import MeasurementFailed
from base.averages import fmean, median
from wire.measured import Transfer
from wire.reasons import Invalid, Reason

if TYPE_CHECKING:
    from agent.measurements.throughput_options import ThroughputOptions

GAP_S: Final = 1.0
"""A transfer that stands still for so long reports no error, just a lower mean: it is marked."""

# Bytes on the interface against bytes that iperf3 counts. Measured: 1.036-1.041 for headers at an MTU of 1500, and a
# timed download goes on for 0.2-0.4 s after the last byte that is counted (more behind a long queue: `test_s` tells).
_HEADERS_AT_MOST: Final = 1.065
_IPV6_HEADERS_AT_MOST: Final = 1.08  # 20 bytes more: 1.060 at an MTU of 1500, 1.071 at the least that is allowed, 1280
_DRAIN_S: Final = 0.6
_LEAST_BACK: Final = 0.0002  # an acknowledgement of 40 bytes for two received packets of 64 KiB: else they go elsewhere
_CONTROL_BYTES: Final = 20_000  # handshakes, parameters and results of 16 streams
_SEGMENT_BYTES: Final = 1514
_ELSEWHERE_SHARE: Final = 0.03
_ELSEWHERE_BYTES: Final = 200_000
_TELLING_BYTES: Final = 1_000_000
_LEAST_PACE_S: Final = 0.2
"""Of less no pace is told: it would be that of a burst, or of a connection that has hardly begun."""

LEAST_MEASURED_S: Final = 3.0
"""A transfer that was to be measured for longer and was not is too short: slow start weighs on what is left of it."""
_TIMERS_S: Final = 0.05
_SHORTER: Final = 0.9
"""The two ends' clocks do not leave out the start, and do not end, at the same moment."""

_REASONS: Final = (
    ("server is busy", Reason.BUSY),
    ("connection refused", Reason.REFUSED),
    ("no such device", Reason.LINK_DOWN),
    ("network is down", Reason.LINK_DOWN),
    ("cannot assign requested address", Reason.NO_ADDRESS),
    ("no route to host", Reason.UNREACHABLE),
    ("unreachable", Reason.UNREACHABLE),
    ("timed out", Reason.TIMEOUT),
    ("timeout", Reason.TIMEOUT),
    ("now in progress", Reason.TIMEOUT),
    ("temporarily unavailable", Reason.TIMEOUT),
    ("server has terminated", Reason.INTERRUPTED),
    ("closed unexpectedly", Reason.INTERRUPTED),
    ("connection reset", Reason.INTERRUPTED),
    ("broken pipe", Reason.INTERRUPTED),
)
"""Fragments of libiperf's and the kernel's messages (iperf_error.c, strerror), as seen with libiperf 3.12."""


class Sum(msgspec.Struct, frozen=True):
    """All streams together, over one interval or the whole measured part."""

    bytes: int = 0
    seconds: float = 0.0
    retransmits: int | None = None
    omitted: bool = False
    lost_percent: float | None = None
    jitter_ms: float | None = None


class Interval(msgspec.Struct, frozen=True):
    """One line of the series. Downloads: what this end received; uploads: what it handed to its kernel."""

    sum: Sum = Sum()


class End(msgspec.Struct, frozen=True):
    """The two ends' own totals, without the omitted start."""

    sum_sent: Sum | None = None
    sum_received: Sum | None = None
    sender_tcp_congestion: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a child answers: iperf3's JSON, how the watchdog had to act, and what it saw of the streams.

    `looks`: seconds, bytes of all streams that had arrived (this end's TCP says so in both directions), and the mean of
    their round trips in microseconds. The first one is the last before there was data.
    """

    intervals: tuple[Interval, ...] = ()
    end: End = End()
    error: str | None = None
    byte_cap_reached: bool = False
    quota_reached: bool = False
    busy_s: float | None = None
    """How long the child ran or waited for a processor, as far as its kernel counts that."""
    deadline_reached: bool = False
    unusable: bool = False
    looks: tuple[tuple[float, int, int], ...] = ()

    @property
    def counted_bytes(self) -> int:
        """Bytes of the whole transfer that this end counted, the omitted start included."""
        return sum(interval.sum.bytes for interval in self.intervals)

    @property
    def counted_s(self) -> float:
        """How long that took."""
        return sum(interval.sum.seconds for interval in self.intervals)

    @property
    def start_s(self) -> float:
        """How much of the omitted start is among the intervals: libiperf loses its end where two timers coincide."""
        return sum(interval.sum.seconds for interval in self.intervals if interval.sum.omitted)

    @property
    def begun(self) -> bool:
        """Whether test data has flowed; the streams show it before there is a whole interval."""
        return self.counted_bytes > 0 or bool(self.looks)


def read(payload: bytes) -> Report:
    """Read a child's answer; raise MeasurementFailed (TOOL_FAILED)."""
    try:
        return msgspec.json.decode(payload, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeasurementFailed(Reason.TOOL_FAILED, f"iperf3's answer cannot be read: {error}") from error


def mbps(byte_count: int, elapsed_s: float) -> float:
    """Megabits per second, 10^6 bits, to the nearest bit per millisecond."""
    return round(byte_count * 8 / elapsed_s / 1e6, 3)


def brief(value: float) -> float:
    """Round to three digits that mean something: of a series and of round trips more only costs cellular bytes."""
    return float(f"{value:.3g}")


def reason(report: Report) -> Reason:
    """Name the reason of a report with an error, as far as its text tells."""
    text = (report.error or "").lower()
    if report.unusable:
        return Reason.TOOL_MISSING if text.startswith("libiperf") else Reason.TOOL_FAILED
    if report.deadline_reached:
        return Reason.TIMEOUT
    return next((found for fragment, found in _REASONS if fragment in text), Reason.TOOL_FAILED)


def stopped_by_the_plan(report: Report, where: str) -> MeasurementFailed:
    """Say that what the plan has left did not last for the omitted start, and how fast it went."""
    failure = MeasurementFailed(
        Reason.QUOTA_REACHED, f"{where}: what the plan had left was moved before anything was measured", begun=True
    )
    if report.looks and report.looks[-1][1] >= _TELLING_BYTES:
        (first_s, *_), (last_s, moved_bytes, _) = report.looks[0], report.looks[-1]
        failure.pace_bytes_per_s = moved_bytes / max(last_s - first_s, _LEAST_PACE_S)
    return failure


def transfer(report: Report, *, reverse: bool, options: ThroughputOptions) -> Transfer:
    """Turn a report without error into the receiver's figures; raise MeasurementFailed if there are none.

    A download (`reverse`) is counted here, from its first byte. Of an upload the receiver is the server, which forgets
    the omitted start; but this end's TCP knows what has been acknowledged, so the mean over all of it is known too, as
    far as the kernel tells. Without it bytes and time are those of the measured part. An upload's intervals are the
    sender's: shape, not proof.
    """
    received = report.end.sum_received
    ended_early = report.byte_cap_reached or report.quota_reached
    if received is None or received.seconds <= 0 or received.bytes <= 0:
        if report.quota_reached:
            raise stopped_by_the_plan(report, "iperf3")
        if report.byte_cap_reached:
            raise MeasurementFailed(Reason.QUOTA_REACHED, "the byte cap was reached before anything was measured")
        raise MeasurementFailed(Reason.TOOL_FAILED, "iperf3 counted no bytes, and no error")
    steady_mbps = mbps(received.bytes, received.seconds)
    payload_bytes, elapsed_s = received.bytes, received.seconds
    whole_mbps = steady_mbps if options.omit_s == 0 else None
    arrived = _arrived(report, within_s=options.omit_s + options.duration_s) if not reverse else None
    if reverse and report.begun and report.counted_s > 0 and _missing_start_s(report, options.omit_s) == 0:
        payload_bytes, elapsed_s = report.counted_bytes, report.counted_s
        whole_mbps = mbps(payload_bytes, elapsed_s)
    elif arrived is not None and options.omit_s > 0:
        payload_bytes, elapsed_s = arrived
        whole_mbps = mbps(payload_bytes, elapsed_s)
    sent = report.end.sum_sent
    rtts_ms = [rtt_us / 1000 for _, _, rtt_us in report.looks if rtt_us > 0]
    return Transfer(
        steady_mbps=steady_mbps,
        mbps=whole_mbps,
        payload_bytes=payload_bytes,
        elapsed_s=round(elapsed_s, 3),
        omit_s=options.omit_s,
        streams=options.streams,
        congestion=report.end.sender_tcp_congestion,
        retransmits=sent.retransmits if sent is not None else None,
        interval_s=options.interval_s,
        interval_mbps=tuple(
            brief(mbps(interval.sum.bytes, interval.sum.seconds)) for interval in _full(report, options.interval_s)
        ),
        cut_short=Reason.QUOTA_REACHED if ended_early else None,
        tcp_rtt_min_ms=brief(min(rtts_ms)) if rtts_ms else None,
        tcp_rtt_mean_ms=brief(fmean(rtts_ms)) if rtts_ms else None,
        tcp_rtt_max_ms=brief(max(rtts_ms)) if rtts_ms else None,
        cpu_share=round(report.busy_s / report.counted_s, 3) if report.busy_s and report.counted_s else None,
    )


def doubts(
    report: Report, result: Transfer, *, test_s: float, asked_s: float = 0.0, beside_bytes: int = 0
) -> tuple[Invalid, ...]:
    """List what keeps a transfer from being a sample.

    `test_s` is how long its process lived, `asked_s` how long it was to be measured; `beside_bytes`: what we sent over
    the link ourselves meanwhile, one way.
    """
    unseen_bytes = _missing_start_s(report, result.omit_s) * result.steady_mbps * 1e6 / 8
    found = [
        *account(
            at_least_bytes=result.payload_bytes,
            counted_bytes=report.counted_bytes + int(unseen_bytes),
            retransmits=0 if result.retransmits is None else result.retransmits,
            drain_s=test_s - report.counted_s,
            steady_mbps=result.steady_mbps,
            interface_bytes=result.interface_bytes or 0,
            other_interfaces_bytes=result.other_interfaces_bytes or 0,
            beside_bytes=beside_bytes,
            headers=_IPV6_HEADERS_AT_MOST if result.family == "ipv6" else _HEADERS_AT_MOST,
        )
    ]
    back_bytes = result.interface_back_bytes
    if back_bytes is not None and back_bytes < _LEAST_BACK * result.payload_bytes and not found:
        found.append(Invalid.BYTES_NOT_ACCOUNTED)
    if longest_gap_s(report) >= GAP_S:
        found.append(Invalid.GAP_IN_TRANSFER)
    if report.byte_cap_reached:
        found.append(Invalid.BYTE_CAP)
    elif report.quota_reached:
        found.append(Invalid.QUOTA_REACHED)
    received = report.end.sum_received
    if received is not None and received.seconds < _SHORTER * min(asked_s, LEAST_MEASURED_S):
        found.append(Invalid.TOO_SHORT)
    return tuple(found)


def account(
    *,
    at_least_bytes: int,
    counted_bytes: int,
    retransmits: int,
    drain_s: float,
    steady_mbps: float,
    interface_bytes: int,
    other_interfaces_bytes: int,
    beside_bytes: int = 0,
    headers: float = _HEADERS_AT_MOST,
) -> tuple[Invalid, ...]:
    """Hold the interfaces' counters, in the direction of the transfer, against what iperf3 claims.

    The link must have carried at least what arrived (`at_least_bytes`), else the test went elsewhere; and at most what
    was sent (`counted_bytes`, start included) with headers, retransmissions, what still came in while the test wound up
    (`drain_s` at the steady rate), and what else we sent ourselves (`beside_bytes`), else something else used the link
    too. The lower bound asks for no headers: where segmentation is offloaded the kernel counts those of one segment in
    forty, and VJ compression over PPP (RFC 1144) leaves 3 bytes of 40. All other interfaces together must have stayed
    below 3 % of the test and 200 kB.
    """
    found: list[Invalid] = []
    drain_bytes = max(_DRAIN_S, drain_s) * steady_mbps * 1e6 / 8
    at_most_bytes = counted_bytes * headers + drain_bytes + retransmits * _SEGMENT_BYTES + _CONTROL_BYTES
    at_most_bytes += beside_bytes
    if interface_bytes < at_least_bytes:
        found.append(Invalid.BYTES_NOT_ACCOUNTED)
    if interface_bytes > at_most_bytes:
        found.append(Invalid.OTHER_TRAFFIC)
    if other_interfaces_bytes >= _ELSEWHERE_SHARE * counted_bytes + _ELSEWHERE_BYTES:
        found.append(Invalid.OTHER_INTERFACE_USED)
    return tuple(found)


def longest_gap_s(report: Report) -> float:
    """Estimate the longest standstill: empty intervals, and the missing share of the two beside them."""
    sums = [interval.sum for interval in report.intervals if interval.sum.seconds > 0]
    rates = [one.bytes / one.seconds for one in sums]
    usual = median([rate for rate in rates if rate > 0] or [0.0])
    longest_s = 0.0
    for empty, group in groupby(range(len(sums)), key=lambda index: sums[index].bytes == 0):
        if empty:
            run = list(group)
            beside = [index for index in (run[0] - 1, run[-1] + 1) if 0 <= index < len(sums)]
            missing_s = sum(sums[index].seconds * max(0.0, 1 - rates[index] / usual) for index in beside if usual)
            longest_s = max(longest_s, sum(sums[index].seconds for index in run) + missing_s)
    return longest_s


def data_span_s(report: Report) -> tuple[float, float]:
    """Tell when data flowed, in s since the test began; all of the time if nobody looked."""
    return (report.looks[0][0], report.looks[-1][0]) if report.looks else (0.0, math.inf)


def _arrived(report: Report, *, within_s: float) -> tuple[int, float] | None:
    """Return what had arrived when a transfer's time was over, and how long that had taken; None if nobody looked."""
    if not report.looks:
        return None
    begun_s = report.looks[0][0]
    seen = [(moved, at_s - begun_s) for at_s, moved, _ in report.looks if at_s - begun_s <= within_s + _TIMERS_S]
    moved, elapsed_s = seen[-1]
    return (moved, elapsed_s) if elapsed_s > 0 and moved > 0 else None


def _missing_start_s(report: Report, omit_s: float) -> float:
    """How much of the omitted start iperf3 did not report; less than a tenth of it is timing, not loss."""
    missing_s = omit_s - report.start_s
    return missing_s if missing_s > omit_s / 10 else 0.0


def _full(report: Report, interval_s: float) -> list[Interval]:
    """Leave out the slivers after the omitted part and at the end: a rate over a millisecond means nothing."""
    return [interval for interval in report.intervals if interval.sum.seconds >= interval_s / 2]
