"""A spool's file may live more than one life: a new spool_id begins when its numbers can no longer be trusted.

Numbers in the file only ever rise; a result's `seq` is its number less those that were given `before` its life. In a
file that never lost its identity the two are the same. Every function works inside its caller's transaction.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import sqlite3

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS lives (spool_id TEXT PRIMARY KEY, before INTEGER NOT NULL) WITHOUT ROWID;
"""
_NO_END: Final = 2**62


class Span(NamedTuple):
    """The numbers of one life in the file: those above `before`, up to `last`."""

    before: int
    last: int

    def numbers(self, first: int, last: int) -> tuple[int, int]:
        """Return the closed range of numbers that these seq stand for, of this life alone; it may be empty.

        What comes in may be anything from 1 to 2^63 - 1, and SQLite takes no larger number.
        """
        length = self.last - self.before
        return self.before + min(max(first, 1), length + 1), self.before + min(last, length)


def begin(db: sqlite3.Connection, last_number: int) -> str:
    """Begin a new life after this number; return its spool_id."""
    spool_id = secrets.token_hex(8)
    db.execute("DELETE FROM lives WHERE before >= ?", (last_number,))  # a life without a result is none
    db.execute("INSERT INTO lives VALUES (?, ?)", (spool_id, last_number))
    db.execute("INSERT OR REPLACE INTO meta VALUES ('spool_id', ?)", (spool_id,))
    return spool_id


def before(db: sqlite3.Connection, spool_id: str) -> int:
    """Return how many numbers were given before this life; 0 for one that the file does not know."""
    row = db.execute("SELECT before FROM lives WHERE spool_id=?", (spool_id,)).fetchone()
    return int(row[0]) if row is not None else 0


def span(db: sqlite3.Connection, spool_id: str) -> Span | None:
    """Return the numbers of a life; None for one that the file does not know."""
    row = db.execute("SELECT before FROM lives WHERE spool_id=?", (spool_id,)).fetchone()
    if row is None:
        return None
    (last,) = db.execute("SELECT MIN(before) FROM lives WHERE before > ?", row).fetchone()
    return Span(row[0], _NO_END if last is None else last)


def of(db: sqlite3.Connection, number: int) -> tuple[str, int]:
    """Return whose number this is: the spool_id and what was given before it."""
    row = db.execute("SELECT spool_id, before FROM lives WHERE before < ? ORDER BY before DESC", (number,)).fetchone()
    return row[0], row[1]


def all_of(db: sqlite3.Connection) -> dict[str, int]:
    """Return every life and what was given before it."""
    return dict(db.execute("SELECT spool_id, before FROM lives").fetchall())
