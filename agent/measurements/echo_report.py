"""What irtt and ping print, read: Echo figures and the reason of a failure. No I/O, no clock."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from agent.measurements import jitter
from agent.measurements.base import MeasurementFailed
from wire.measured import Echo
from wire.reasons import Reason

_NS_PER_MS: Final = 1e6
_PING_REPLY: Final = re.compile(r"icmp_seq=(\d+) .*time=([0-9.]+) ms(?!.*DUP)")
_PING_TOTALS: Final = re.compile(r"(\d+) packets transmitted, (\d+) received")

_REASONS: Final = (
    ("connection refused", Reason.REFUSED),
    ("no reply from server", Reason.TIMEOUT),
    ("no route to host", Reason.UNREACHABLE),
    ("unreachable", Reason.UNREACHABLE),
    ("cannot assign requested address", Reason.NO_ADDRESS),
    ("network is down", Reason.LINK_DOWN),
)


class _Times(msgspec.Struct, frozen=True):
    """One of irtt's statistics, in nanoseconds; without `n` nothing was counted."""

    n: int = 0
    min: float = 0
    mean: float = 0
    median: float | None = None
    max: float = 0


class _Stats(msgspec.Struct, frozen=True):
    """The part of irtt's JSON that we keep (irtt-client(1), JSON format 1)."""

    packets_sent: int
    packets_received: int
    packet_loss_percent: float = 0.0
    upstream_loss_percent: float | None = None
    downstream_loss_percent: float | None = None
    server_packets_received: int = 0
    rtt: _Times = _Times()
    ipdv_round_trip: _Times = _Times()


class _Delay(msgspec.Struct, frozen=True):
    rtt: float | None = None


class _RoundTrip(msgspec.Struct, frozen=True):
    """One packet; without `delay.rtt` it did not come back."""

    delay: _Delay = _Delay()


class _Irtt(msgspec.Struct, frozen=True):
    stats: _Stats
    round_trips: tuple[_RoundTrip, ...] = ()


class UdpEcho(NamedTuple):
    """Round trips by irtt; the loss of each direction is None where nothing came back to tell."""

    echo: Echo
    loss_up_percent: float | None
    loss_down_percent: float | None


def read_irtt(output: bytes) -> UdpEcho:
    """Read the output of `irtt client -o - -Q`; raise MeasurementFailed (TOOL_FAILED)."""
    try:
        report = msgspec.json.decode(output, type=_Irtt)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeasurementFailed(Reason.TOOL_FAILED, f"irtt's answer cannot be read: {error}") from error
    stats = report.stats
    if stats.packets_sent == 0:
        raise MeasurementFailed(Reason.TOOL_FAILED, "irtt sent nothing")
    rtt, steps = stats.rtt, stats.ipdv_round_trip
    counted = stats.packets_received > 0 and rtt.n > 0
    trips_ms = [trip.delay.rtt / _NS_PER_MS for trip in report.round_trips if trip.delay.rtt is not None]
    whole = len(trips_ms) == stats.packets_received
    echo = Echo(
        tool="irtt",
        sent=stats.packets_sent,
        received=stats.packets_received,
        loss_percent=_percent(stats.packets_sent, stats.packets_received),
        rtt_min_ms=_ms(rtt.min) if counted else None,
        rtt_mean_ms=_ms(rtt.mean) if counted else None,
        rtt_median_ms=_ms(rtt.median) if counted and rtt.median is not None else None,
        rtt_max_ms=_ms(rtt.max) if counted else None,
        jitter_ms=_ms(steps.mean) if steps.n > 0 else None,
        jitter_rfc3550_ms=jitter.rfc3550_jitter_ms(trips_ms) if whole else None,
        jitter_variance_ms2=jitter.variance_ms2(trips_ms) if whole else None,
    )
    if not counted:
        return UdpEcho(echo, None, None)
    return UdpEcho(echo, _rounded(stats.upstream_loss_percent), _rounded(stats.downstream_loss_percent))


def irtt_failure(complaint: str) -> MeasurementFailed:
    """Name the reason of a run of irtt that brought no figures, from its last words."""
    text = complaint.lower()
    reason = next((found for fragment, found in _REASONS if fragment in text), Reason.TOOL_FAILED)
    return MeasurementFailed(reason, f"irtt: {complaint or 'ended without a word'}")


def read_ping(output: str) -> Echo | None:
    """Read the output of iputils' ping; None if it is none."""
    totals = _PING_TOTALS.search(output)
    if totals is None or int(totals[1]) == 0:
        return None
    replies = {int(reply[1]): float(reply[2]) for reply in map(_PING_REPLY.search, output.splitlines()) if reply}
    sent = int(totals[1])
    # ping counts what it received, late replies too; those it printed are the same unless it was cut off.
    return msgspec.structs.replace(
        jitter.echo("ping", [replies.get(number) for number in range(1, sent + 1)]),
        received=int(totals[2]),
        loss_percent=_percent(sent, int(totals[2])),
    )


def _ms(nanoseconds: float) -> float:
    return round(nanoseconds / _NS_PER_MS, 3)


def _percent(sent: int, received: int) -> float:
    return round(100 * (sent - received) / sent, 2)


def _rounded(percent: float | None) -> float | None:
    return None if percent is None else round(percent, 2)
