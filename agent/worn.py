"""Values that a worn card gives back otherwise than they were written, where SQLite sees nothing: it has no checksums.

A note that cannot be one counts as absent, and that is said once. Only the numbers of results are more: without them
nothing can be stored or let go, so a file in which they cannot be right has to be rebuilt.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from wire.form import Name

if TYPE_CHECKING:
    from typing import TypeGuard

log = logging.getLogger(__name__)

MOST: Final = 2**53
"""No number of ours is larger."""
_YEARS: Final = range(1970, 2200)
_UNREADABLE: Final = "\ufffd"


class Misnumbered(sqlite3.DatabaseError):
    """What the file says of its results' numbers cannot be right."""

    def __init__(self, what: str) -> None:
        super().__init__(f"malformed: {what}")


def text(raw: bytes) -> str:
    """Read a text; one that has changed on the card is a wrong text, not an error that hides every other row."""
    return raw.decode("utf-8", "replace")


def is_whole(value: object, least: int = 0, most: int = MOST) -> TypeGuard[int]:
    """Whether this is an integer, and one that may be."""
    return isinstance(value, int) and least <= value <= most


def is_name(value: object) -> TypeGuard[str]:
    """Whether this is a name by the rules of the wire, where another may not travel."""
    try:
        return bool(msgspec.convert(value, Name))
    except msgspec.ValidationError:
        return False


def is_text(value: object) -> TypeGuard[str]:
    """Whether this is a text, and was written as it is."""
    return isinstance(value, str) and _UNREADABLE not in value


def moment(value: object) -> datetime | None:
    """Read a time (ISO); None where it is none."""
    try:
        found = datetime.fromisoformat(value).astimezone(UTC) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
    return found if found is not None and found.year in _YEARS else None


def day(value: object) -> date | None:
    """Read a day (YYYY-MM-DD); None where it is none."""
    try:
        found = date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found is not None and found.year in _YEARS and found.isoformat() == value else None


@functools.lru_cache(maxsize=100)
def say(what: str) -> None:
    """Say once in the agent's life what counts as absent."""
    log.warning("the card has changed what was noted of %s; it counts as absent", what)
