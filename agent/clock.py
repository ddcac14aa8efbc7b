"""Wall time stamps, monotonic time measures; and how far the wall clock can be trusted."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from agent.timesync import Sources

if TYPE_CHECKING:
    from wire.results import Clock as ClockQuality

_ASK_EVERY_S: Final = 5.0
_STEP_S: Final = 1.0


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

    def __init__(self, sources: Sources | None = None) -> None:
        """Take who is asked about the wall clock; nothing is asked yet."""
        self._sources = sources or Sources()
        self._asked: tuple[float, float, ClockQuality] | None = None

    def now(self) -> datetime:
        """Read the wall clock."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Read CLOCK_MONOTONIC."""
        return time.monotonic()

    def quality(self) -> ClockQuality:
        """Ask chrony, timesyncd and the kernel; what they said stands for some seconds, unless the clock is set."""
        now_s, wall_s = time.monotonic(), time.time()
        if self._asked is not None:
            asked_s, offset_s, said = self._asked
            if now_s - asked_s < _ASK_EVERY_S and abs(wall_s - now_s - offset_s) < _STEP_S:
                return said
        self._asked = (now_s, wall_s - now_s, self._sources.quality(wall_s))
        return self._asked[2]
