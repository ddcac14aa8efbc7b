"""A fleet's results, encoded as agents encode them: those of `lab.wire.day`, which an agent.yaml's schedule makes.

A week of one link is played, thinned as the agent thins. Each probe goes through it again and again and begins
somewhere else, so that all probes together send the day's mix at any time. The same arguments make the same bytes.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent import settings
from agent.publisher import STATUS_EVERY_S
from lab.wire import day
from wire import codec
from wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wire.results import Result

EXAMPLE: Final = Path(__file__).parents[2] / "config/agent.yaml"
STATUSES_PER_DAY: Final = round(day.DAY_S / STATUS_EVERY_S)
_DAYS: Final = 7
_START: Final = datetime(2026, 7, 1, tzinfo=UTC)
_GOLDEN: Final = 0.6180339887
"""Multiples of the golden ratio modulo 1 lie evenly, however many there are (Steinhaus' three-distance theorem)."""


def probe_id(number: int) -> str:
    """Name a probe."""
    return f"lab-{number:04d}"


class Content:
    """What probes send whose agent.yaml is `path`, of its first link."""

    def __init__(self, path: Path = EXAMPLE) -> None:
        """Play the week; raise ConfigError."""
        self.path = path
        config = settings.load(path)
        self.settings = msgspec.structs.replace(config, links=config.links[:1])
        played = [day.events(self.settings, seed=1 + 2 * number) for number in range(_DAYS)]
        self._week = [
            (number * day.DAY_S + event.at_s, event.result)
            for number, events in enumerate(played)
            for event in events
            if event.result is not None
        ]

    @property
    def per_week(self) -> int:
        """How many results a link makes in a week."""
        return len(self._week)

    @property
    def per_day(self) -> float:
        """How many results a link makes in a day, the mean."""
        return self.per_week / _DAYS

    def results(self, probe: int, count: int, *, first_seq: int = 1, start: datetime = _START) -> Iterator[bytes]:
        """Encode `count` results of one probe, one after the other in time from `start`, numbered from `first_seq`."""
        first = round(probe * _GOLDEN % 1 * self.per_week)
        endless = itertools.islice(self._endlessly(), first, None)
        begin_s: float | None = None
        for number, (at_s, result) in enumerate(itertools.islice(endless, count), first_seq):
            begin_s = at_s if begin_s is None else begin_s
            started_at = start + timedelta(seconds=at_s - begin_s, microseconds=result.started_at.microsecond)
            mine = msgspec.structs.replace(
                result,
                probe_id=probe_id(probe),
                spool_id=f"{probe:016x}",
                seq=number,
                site=f"site-{probe:04d}",
                started_at=started_at,
            )
            yield codec.encode(mine)

    def statuses(self, probe: int, days: int, *, start: datetime = _START) -> Iterator[Status]:
        """Give what one probe says of itself in so many days."""
        for number in range(days * STATUSES_PER_DAY):
            yield Status(
                probe_id=probe_id(probe),
                online=True,
                site=f"site-{probe:04d}",
                at=start + timedelta(seconds=number * STATUS_EVERY_S),
                agent_version="0.1.0",
                spool_id=f"{probe:016x}",
                spooled=round(number * self.per_day / STATUSES_PER_DAY),
            )

    def _endlessly(self) -> Iterator[tuple[float, Result]]:
        for week in itertools.count():
            for at_s, result in self._week:
                yield week * _DAYS * day.DAY_S + at_s, result
