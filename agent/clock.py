"""Wall time stamps, monotonic time measures; and how far the wall clock can be trusted."""

from __future__ import annotations

import ctypes
import time
from datetime import UTC, datetime
from typing import Final, Protocol

from wire.messages import Clock as ClockQuality

_TIME_ERROR: Final = 5  # adjtimex(2): "the system clock is not synchronized to a reliable server"


class Clock(Protocol):
    """The hands of time; tests hold them."""

    def now(self) -> datetime:
        """Aware, UTC: stamps results."""
        ...

    def monotonic_s(self) -> float:
        """Durations and deadlines; never mixed with now()."""
        ...

    def quality(self) -> ClockQuality:
        """Whether now() can be trusted."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Read the wall clock."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Read CLOCK_MONOTONIC."""
        return time.monotonic()

    def quality(self) -> ClockQuality:
        """Ask the kernel, adjtimex(2): synchronised or not, and its estimated error."""
        timex = _Timex()
        try:
            state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
        except (AttributeError, OSError):
            return ClockQuality()
        if state < 0:
            return ClockQuality()
        synchronised = state != _TIME_ERROR
        return ClockQuality(
            synchronised=synchronised, estimated_error_ms=timex.esterror / 1000 if synchronised else None
        )


class _Timex(ctypes.Structure):
    """struct timex of linux/timex.h, its head named; modes = 0 only reads."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )
