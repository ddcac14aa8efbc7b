"""A spool's file may live more than one life: a new spool_id begins when its numbers can no longer be trusted.

Numbers in the file only ever rise; a result's `seq` is its number less those that were given `before` its life. In a
file that never lost its identity the two are the same. Every function works inside its caller's transaction.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

from agent import worn

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


def last_number(db: sqlite3.Connection) -> int:
    """Return the last number that was given; raise worn.Misnumbered where nobody can say."""
    row = db.execute("SELECT value FROM meta WHERE key='last_seq'").fetchone()
    if row is None or not worn.is_whole(row[0]):
        raise worn.Misnumbered("the last number is not there")
    return int(row[0])


def next_number(db: sqlite3.Connection) -> int:
    """Give out a number; raise as `last_number`, also where the last one cannot have been the last."""
    number = last_number(db) + 1
    given = "SELECT COALESCE((SELECT MAX(seq) FROM results), 0), COALESCE((SELECT MAX(before) FROM lives), 0)"
    if not all(worn.is_whole(known, most=number - 1) for known in db.execute(given).fetchone()):
        raise worn.Misnumbered(f"number {number} was given before")
    db.execute("UPDATE meta SET value=? WHERE key='last_seq'", (number,))
    return number


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
    return _believed(row[0]) if row is not None else 0


def span(db: sqlite3.Connection, spool_id: str) -> Span | None:
    """Return the numbers of a life; None for one that the file does not know."""
    row = db.execute("SELECT before FROM lives WHERE spool_id=?", (spool_id,)).fetchone()
    if row is None:
        return None
    (last,) = db.execute("SELECT MIN(before) FROM lives WHERE before > ?", row).fetchone()
    return Span(_believed(row[0]), _NO_END if last is None else _believed(last))


def of(db: sqlite3.Connection, number: int) -> tuple[str, int]:
    """Return whose number this is: the spool_id and what was given before it."""
    row = db.execute("SELECT spool_id, before FROM lives WHERE before < ? ORDER BY before DESC", (number,)).fetchone()
    if row is None:
        raise worn.Misnumbered(f"number {number} is of no spool")
    return row[0], _believed(row[1])


def all_of(db: sqlite3.Connection) -> dict[str, int]:
    """Return every life and what was given before it."""
    return dict(db.execute("SELECT spool_id, before FROM lives").fetchall())


def _believed(before: object) -> int:
    if not worn.is_whole(before):
        raise worn.Misnumbered(f"a spool begins after number {before!r}")
    return before
