"""Ways to test: when a transfer ends, and which part of it is the figure. Pure functions of what was delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from lab.method.cells import PAYLOAD_SHARE, STEP_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lab.method.tcp import Transfers

HORIZON_S: Final = 10.5
_HEADERS_AND_ACKS: Final = 1.02
"""Acknowledgements on top of the packets, both directions on the interface."""


class Outcomes(NamedTuple):
    """What each test said (Mbit/s of TCP payload), and what it cost on the interface, both directions."""

    mbps: NDArray[np.float64]
    cost_bytes: NDArray[np.float64]


Rule = Callable[["Transfers"], Outcomes]


class Policy(NamedTuple):
    """A way to test, with the number of its TCP streams."""

    name: str
    streams: int
    rule: Rule


def _part(transfers: Transfers, first: int, last: NDArray[np.int64]) -> Outcomes:
    """Take the mean rate from step `first` to each test's `last`, where it ends."""
    tests = np.arange(transfers.delivered_bytes.shape[1])
    until = transfers.delivered_bytes[last, tests]
    measured = until - transfers.delivered_bytes[first]
    mbps = measured * 8 / 1e6 * PAYLOAD_SHARE / ((last - first) * STEP_S)
    return Outcomes(mbps, until * _HEADERS_AND_ACKS + transfers.late_bytes[last, tests])


def fixed(omit_s: float, measured_s: float) -> Rule:
    """Leave out the beginning, then measure for a fixed time."""
    first, last = round(omit_s / STEP_S), round((omit_s + measured_s) / STEP_S)

    def rule(transfers: Transfers) -> Outcomes:
        return _part(transfers, first, np.full(transfers.delivered_bytes.shape[1], last))

    return rule


def until_stable(omit_s: float, tolerance: float, *, least_s: float, most_s: float) -> Rule:
    """Stop once the running mean has moved by less than `tolerance` within the last second."""
    first, second = round(omit_s / STEP_S), round(1 / STEP_S)

    def rule(transfers: Transfers) -> Outcomes:
        delivered = transfers.delivered_bytes
        last = np.full(delivered.shape[1], round((omit_s + most_s) / STEP_S))
        for at in range(last[0] - second // 2, round((omit_s + least_s) / STEP_S) - 1, -second // 2):
            now = (delivered[at] - delivered[first]) / (at - first)
            then = (delivered[at - second] - delivered[first]) / (at - second - first)
            last[np.abs(now - then) < tolerance * now] = at
        return _part(transfers, first, last)

    return rule


def capped(omit_s: float, cap_bytes: float, *, least_s: float, most_s: float) -> Rule:
    """Stop after so many bytes."""
    first, shortest, longest = (round(at / STEP_S) for at in (omit_s, omit_s + least_s, omit_s + most_s))

    def rule(transfers: Transfers) -> Outcomes:
        reached = (transfers.delivered_bytes < cap_bytes).sum(axis=0)
        return _part(transfers, first, np.clip(reached, shortest, longest))

    return rule


def planned(omit_s: float, target_bytes: float, *, least_s: float, most_s: float) -> Rule:
    """Let the rate just before the measured part set how long that part is."""
    first = round(omit_s / STEP_S)

    def rule(transfers: Transfers) -> Outcomes:
        rate = (transfers.delivered_bytes[first] - transfers.delivered_bytes[first // 2]) / (first - first // 2)
        length = np.clip(target_bytes / np.maximum(rate, 1), least_s / STEP_S, most_s / STEP_S)
        return _part(transfers, first, first + length.astype(np.int64))

    return rule


BASELINE: Final = Policy("10 s, 1 stream", 1, fixed(0, 10))
SHORT: Final = Policy("short: 1+0.5 s", 4, fixed(1, 0.5))
POLICIES: Final = (
    BASELINE,
    Policy("reference: 1+9 s", 4, fixed(1, 9)),
    Policy("light: 1+5 s", 4, fixed(1, 5)),
    Policy("1+3 s", 4, fixed(1, 3)),
    Policy("1+1 s", 4, fixed(1, 1)),
    SHORT,
    Policy("0.5+1 s", 4, fixed(0.5, 1)),
    Policy("0.5+0.5 s", 4, fixed(0.5, 0.5)),
    Policy("until stable, 5 %", 4, until_stable(1, 0.05, least_s=2, most_s=9)),
    Policy("cap of 25 MB", 4, capped(1, 25e6, least_s=0.5, most_s=9)),
    Policy("length for 4 MB", 4, planned(0.5, 4e6, least_s=0.5, most_s=5)),
)
