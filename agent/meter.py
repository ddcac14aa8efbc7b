"""What an interface has carried, across reboots, replaced interfaces, resets and wraps of its counters. Pure.

A plan is charged for everything that crosses the interface, whoever sent it; so the books are kept by its counters, and
never below what they prove.
"""

from __future__ import annotations

from typing import Final

import msgspec

WRAPS_AT: Final = 2**32
"""Drivers that count in 32 bits begin anew here."""
FASTEST_BYTES_PER_S: Final = 40_000_000
"""Both directions together; more than any modem on USB 2.0 carries. A wrap that would need more was a reset."""


class Meter(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of an interface's counters. `boot_id` and `interface_index` say which counters these are.

    `uptime_s` counts from boot, sleep included (CLOCK_BOOTTIME): no setting of the wall clock touches it.
    """

    boot_id: str
    interface_index: int
    uptime_s: float
    received_bytes: int
    sent_bytes: int

    @property
    def both_bytes(self) -> int:
        """Both directions, since these counters began."""
        return self.received_bytes + self.sent_bytes


def same_counters(one: Meter, other: Meter) -> bool:
    """Whether two readings are of the same counters."""
    return (one.boot_id, one.interface_index) == (other.boot_id, other.interface_index)


def grown_bytes(earlier: Meter, now: Meter) -> int:
    """Return how many bytes two readings prove to have been carried between them: at least this, never less.

    After a boot, or on an interface that came anew, counters began at 0: all they show is new. Counters that went
    backwards on the same interface were reset, or have wrapped at 32 bits; where the time was long enough for a wrap,
    both are possible, and the larger figure is taken.
    """
    if not same_counters(earlier, now):
        return now.both_bytes
    pairs = ((earlier.received_bytes, now.received_bytes), (earlier.sent_bytes, now.sent_bytes))
    if all(before <= after for before, after in pairs):
        return sum(after - before for before, after in pairs)
    if any(before >= WRAPS_AT for before, _ in pairs):
        return now.both_bytes  # has counted past 32 bits: it does not wrap there
    wrapped = sum((after - before) % WRAPS_AT for before, after in pairs)
    possible = wrapped <= FASTEST_BYTES_PER_S * max(0.0, now.uptime_s - earlier.uptime_s)
    return max(wrapped, now.both_bytes) if possible else now.both_bytes
