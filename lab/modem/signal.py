"""What the antenna sees: a seeded, bounded walk of the level, and every other figure derived from it.

3GPP TS 36.214: RSSI is the whole power in the channel, so with N resource blocks, load L (share of resource elements
in use) and per-element noise plus interference I, RSSI = 12 N (L RSRP + I), and RSRQ = N RSRP / RSSI.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final, NamedTuple

from wire.radio import Technology

if TYPE_CHECKING:
    from lab.modem.cells import Cell

STEP_S: Final = 1.0
_PULL: Final = 0.06  # share of the way back to the mean in one step
_FORGOTTEN: Final = 300  # steps after which the pull has erased the past: longer gaps are not walked in full
_LOWEST_LOAD: Final = 1 / 6  # reference signals alone: two resource elements in twelve


class Walk:
    """A value that wanders about zero and never leaves ±`spread`; the same seed and times give the same walk."""

    def __init__(self, seed: int, spread: float) -> None:
        self._random = random.Random(seed)
        self._spread = spread
        self._value = self._random.uniform(-spread, spread) / 2
        self._steps: int | None = None

    def at(self, time_s: float) -> float:
        """Return the value at `time_s`; a time before the last one asked for changes nothing."""
        steps = math.floor(time_s / STEP_S)
        if self._steps is None:
            self._steps = steps
        for _ in range(min(steps - self._steps, _FORGOTTEN)):
            kick = self._random.gauss(0.0, self._spread * 0.15)
            self._value = max(-self._spread, min(self._spread, self._value * (1 - _PULL) + kick))
        self._steps = max(self._steps, steps)
        return self._value


class Signal(NamedTuple):
    """One moment's true figures. LTE: RSRP, RSRQ, SINR, RSSI; UMTS: RSCP in `level_dbm`, Ec/Io in `quality_db`."""

    level_dbm: float
    quality_db: float
    sinr_db: float
    rssi_dbm: float


def signal(cell: Cell, offset_db: float, load: float) -> Signal:
    """Derive the figures of `cell` when its level is `offset_db` off the mean and `load` (0 to 1) of it is in use."""
    share = max(_LOWEST_LOAD, min(1.0, load))
    if cell.technology is Technology.UMTS:
        rscp = max(-120.0, min(-25.0, cell.rsrp_dbm + offset_db))
        ecio = -4.0 - 8.0 * share
        return Signal(rscp, ecio, math.nan, rscp - ecio)
    rsrp = max(-140.0, min(-44.0, cell.rsrp_dbm + offset_db))
    sinr = max(-20.0, min(30.0, rsrp - (cell.rsrp_dbm - cell.sinr_db)))
    occupied_db = 10 * math.log10(12 * (share + 10 ** (-sinr / 10)))
    return Signal(rsrp, -occupied_db, sinr, rsrp + 10 * math.log10(cell.resource_blocks) + occupied_db)


# Codes of 3GPP TS 27.007 section 8.69 (+CESQ) and 8.5 (+CSQ). Every step names the lower edge of its interval.


def rsrp_code(dbm: float) -> int:
    """+CESQ <rsrp>: n means -141+n dBm up to 1 dB more."""
    return _code(dbm + 141, 97)


def rsrq_code(decibel: float) -> int:
    """+CESQ <rsrq>: n means -20+n/2 dB up to half a dB more."""
    return _code((decibel + 20) * 2, 34)


def rscp_code(dbm: float) -> int:
    """+CESQ <rscp>: n means -121+n dBm up to 1 dB more."""
    return _code(dbm + 121, 96)


def ecno_code(decibel: float) -> int:
    """+CESQ <ecno>: n means -24.5+n/2 dB up to half a dB more."""
    return _code((decibel + 24.5) * 2, 49)


def csq_code(rssi_dbm: float) -> int:
    """+CSQ <rssi>: n means about -113+2n dBm."""
    return _code((rssi_dbm + 113) / 2, 31)


def _code(value: float, highest: int) -> int:
    return max(0, min(highest, math.floor(value)))
