"""What keeps a throughput result from being a sample: evidence in, reasons out. Pure; one rule for each reason.

What iperf3's report and the interfaces' counters say against a transfer is judged in `agent.measurements.iperf_report`;
what the clock says, once it is known, in `agent.time_repair`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from wire.measured import Machine, Throughput, Transfer
from wire.radio import RadioReading, Registration, Technology
from wire.reasons import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

_4G_OR_LATER: Final = {Technology.LTE, Technology.NR5G_NSA, Technology.NR5G_SA}
STEP_S: Final = 0.25
"""A wall clock that moved so far against the steady one was set; slewing moves it by 0.5 ms a second at most."""
_BUSY_SHARE: Final = 0.9
"""A process that so seldom waits for the network is held up by its processor."""
_INTERRUPTS_PERCENT: Final = 90.0
"""A core that does little but take packets in drops some of them."""
_STOLEN_PERCENT: Final = 25.0
_SERVER_PERCENT: Final = 70.0
"""METHOD 3.4: a result is no sample where more of the server's network was in use."""
# Against a transfer go its acknowledgements: one of 66 bytes for every segment or two of 1514, more with losses.
_BACKWARD_SHARE: Final = 0.08
_BACKWARD_BYTES: Final = 300_000
_STILL_COMES_S: Final = 1.0
"""For so long what a download has left in the queues of the network may still come in while the upload runs."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of how a test went. None: not known, which is no reason, but for the radio before and after.

    `clock_step_s`: how far the wall clock moved against the steady one. `plan_spent`: the data plan had nothing left,
    by our books or the operator's word. `past_lease_s`: how long after the lease the test ended.
    """

    before: RadioReading | None = None
    during: tuple[RadioReading, ...] = ()
    after: RadioReading | None = None
    transfers: tuple[Transfer, ...] = ()
    machine: Machine | None = None
    clock_step_s: float | None = None
    plan_spent: bool = False
    server_load_percent: float | None = None
    past_lease_s: float | None = None


def _is_fallback(reading: RadioReading | None) -> bool:
    return reading is not None and reading.technology is not None and reading.technology not in _4G_OR_LATER


def _unknown(seen: Evidence) -> bool:
    return any(look is None or look.technology is None for look in (seen.before, seen.after))


def _fell_back(seen: Evidence) -> bool:
    """4G at first, and then, during the test or right after it, not."""
    return not _is_fallback(seen.before) and any(_is_fallback(look) for look in (*seen.during, seen.after))


def _roaming(seen: Evidence) -> bool:
    looks = (seen.before, *seen.during, seen.after)
    return any(look is not None and look.registration == Registration.ROAMING for look in looks)


def _other_traffic(seen: Evidence) -> bool:
    """More came and went against a transfer's direction than acknowledgements; along it, iperf_report judges."""
    late_bytes = 0.0
    for one in seen.transfers:
        usual_bytes = _BACKWARD_SHARE * (one.interface_bytes or 0) + _BACKWARD_BYTES + late_bytes
        if one.interface_bytes is not None and (one.interface_back_bytes or 0) > usual_bytes:
            return True
        late_bytes = _STILL_COMES_S * one.steady_mbps * 1e6 / 8
    return False


def _starved(seen: Evidence) -> bool:
    machine = seen.machine or Machine()
    return (
        any((transfer.cpu_share or 0.0) >= _BUSY_SHARE for transfer in seen.transfers)
        or (machine.irq_percent or 0.0) >= _INTERRUPTS_PERCENT
        or (machine.steal_percent or 0.0) >= _STOLEN_PERCENT
    )


RULES: Final[Mapping[Invalid, Callable[[Evidence], bool]]] = {
    Invalid.RADIO_UNKNOWN: _unknown,
    Invalid.NOT_CELLULAR_4G: lambda seen: _is_fallback(seen.before) or _is_fallback(seen.after),
    Invalid.FELL_BACK: _fell_back,
    Invalid.ROAMING: _roaming,
    Invalid.OTHER_TRAFFIC: _other_traffic,
    Invalid.PLAN_THROTTLED: lambda seen: seen.plan_spent,
    Invalid.CPU_STARVED: _starved,
    Invalid.DEVICE_THROTTLED: lambda seen: seen.machine is not None and bool(seen.machine.throttled),
    Invalid.CLOCK_STEPPED: lambda seen: abs(seen.clock_step_s or 0.0) > STEP_S,
    Invalid.SERVER_LOADED: lambda seen: (seen.server_load_percent or 0.0) > _SERVER_PERCENT,
    Invalid.LEASE_EXPIRED: lambda seen: (seen.past_lease_s or 0.0) > 0.0,
}


def doubts(seen: Evidence) -> tuple[Invalid, ...]:
    """List why a test is no sample, in the order of the rules; empty: nothing speaks against it."""
    return tuple(reason for reason, holds in RULES.items() if holds(seen))


def doubted(outcome: T, reason: Invalid) -> T:
    """Add a reason to a throughput outcome; others have none and stay as they are."""
    if not isinstance(outcome, Throughput) or reason in outcome.invalid:
        return outcome
    return msgspec.structs.replace(outcome, invalid=(*outcome.invalid, reason))


def technologies(during: tuple[RadioReading, ...]) -> tuple[Technology, ...]:
    """Name the technologies that were seen, one after the other, each change once."""
    known = [reading.technology for reading in during if reading.technology is not None]
    return tuple(now for last, now in zip([None, *known], known, strict=False) if now != last)
