"""A bulk TCP download over a cell, as a fluid: slow start, CUBIC, a queue before the link that drops its tail.

Many tests, each begun at its own instant of the cell, go forward together in steps of `cells.STEP_S`; all flows of one
test are one window. On a constant link it agrees with what real iperf3 flows brought to within a few hundredths
(tests/lab/method/test_tcp.py holds the measured shares of the first seconds).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from lab.method.cells import STEP_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lab.method.cells import Cell

_SEGMENT_BYTES: Final = 1448
_INITIAL_WINDOW: Final = 10
"""Segments; RFC 6928."""
_CUBIC_C: Final = 0.4
_CUBIC_BETA: Final = 0.7
"""RFC 9438, sections 4.1 and 4.6."""
_RENO_LIKE: Final = 3 * (1 - _CUBIC_BETA) / (1 + _CUBIC_BETA)
"""Segments per round trip; RFC 9438, section 4.3."""
_SHARE_THAT_LOSES: Final = 0.5
"""Of several flows about half lose a packet when the queue overflows."""
QUEUE_S: Final = 0.2
"""The queue holds what the link carries in this time on the mean."""
_LEAST_QUEUE_BYTES: Final = 150_000.0


class Transfers(NamedTuple):
    """Tests begun at different instants: row i stands for i steps after the beginning, a column for a test.

    `delivered_bytes` have crossed the link until then; `late_bytes` would still cross if the test ended then: what is
    in flight, and as much again in the sender's buffers.
    """

    delivered_bytes: NDArray[np.float64]
    late_bytes: NDArray[np.float64]


class Begin(NamedTuple):
    """Where in a cell the tests begin: for each its step, and the share of the cell's rate that the hour leaves it."""

    steps: NDArray[np.int64]
    level: NDArray[np.float64]


def download(cell: Cell, begin: Begin, *, streams: int, horizon_s: float, rtt_s: float) -> Transfers:
    """Let `streams` flows run for `horizon_s` from each beginning; lossless but for the queue."""
    steps, tests = round(horizon_s / STEP_S), len(begin.steps)
    flight_steps = max(1, round(rtt_s / STEP_S))
    queue_limit = max(_LEAST_QUEUE_BYTES, float(cell.step_bytes.mean()) / STEP_S * QUEUE_S)
    segment = float(_SEGMENT_BYTES * streams)
    beta = _CUBIC_BETA if streams == 1 else 1 - _SHARE_THAT_LOSES * (1 - _CUBIC_BETA)
    delivered = np.zeros((steps + 1, tests))
    late = np.zeros((steps + 1, tests))
    sent, acked = np.zeros(tests), np.zeros(tests)
    window = np.full(tests, _INITIAL_WINDOW * segment)
    reno, peak, lost_at_s = window.copy(), np.zeros(tests), np.full(tests, -1e9)
    starting = np.ones(tests, dtype=bool)
    for step in range(1, steps + 1):
        now_s = step * STEP_S
        heard = delivered[max(0, step - 1 - flight_steps)]
        newly, acked = heard - acked, heard
        # CUBIC's way back to the window before the loss (RFC 9438, equation 1), no faster than half a slow start.
        back_s = np.cbrt(peak / segment * (1 - _CUBIC_BETA) / _CUBIC_C)
        cubic = (_CUBIC_C * (now_s - lost_at_s - back_s) ** 3 + peak / segment) * segment
        reno += _RENO_LIKE * segment * newly / window
        avoiding = np.maximum(window, np.maximum(np.minimum(cubic, window + newly / 2), reno))
        window = np.where(starting, window + newly, avoiding)
        sent = np.maximum(sent, acked + window)
        waiting = sent - delivered[step - 1]
        capacity = cell.step_bytes[(begin.steps + step - 1) % len(cell.step_bytes)] * begin.level
        crossing = np.minimum(waiting, capacity * (cell.asleep_share if now_s <= cell.wakes_in_s else 1.0))
        delivered[step] = delivered[step - 1] + crossing
        full = waiting - crossing > queue_limit
        sent = np.where(full, delivered[step] + queue_limit, sent)
        loses = full & (now_s - lost_at_s > rtt_s + QUEUE_S)
        peak = np.where(loses, sent - acked, peak)
        window = np.where(loses, peak * beta, window)
        reno = np.where(loses | starting, window, reno)
        lost_at_s = np.where(loses, now_s, lost_at_s)
        starting &= ~loses
        late[step] = 2 * np.minimum(window, sent - acked)
    return Transfers(delivered, late)
