"""Instants as the journal and the database count them: whole microseconds since 1970, UTC. Pure, exact both ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_AHEAD_US: Final = 5_000_000
"""How far a right clock may seem to be ahead of the collector's."""


def microseconds(at: datetime) -> int:
    """Return microseconds since 1970 of an aware time, exactly."""
    return (at - _EPOCH) // _MICROSECOND


def moment(us: int) -> datetime:
    """Return the time in UTC that is so many microseconds after 1970 began."""
    return _EPOCH + timedelta(microseconds=us)


def is_ahead(at_us: int, received_us: int) -> bool:
    """Whether a message says that it was made later than it came: then its clock is wrong."""
    return at_us > received_us + _AHEAD_US
