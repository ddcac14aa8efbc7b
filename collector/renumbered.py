"""Results that come under another number than their first (`wire.results.Result.formerly`), each known again.

A probe whose number is refused gives the result a new one. If it forgets that it did (the card is damaged, an image is
put back, a copy of the card does the same), the result comes once more under a third. What it was first, and what it
says but for its number, tell that it is here already: it is acknowledged and not stored. So is a result that waited
for the clock on a card and on its copy, and that one of them could date and the other not: what comes first stands.

A row of this table is a number under which such a result came; one that has no row among the results came again.
Every function works inside its caller's transaction on the journal.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from collector.instants import microseconds
from wire.codec import Undecodable, decode_result
from wire.measured import Throughput
from wire.reasons import Invalid

if TYPE_CHECKING:
    import sqlite3

    from collector.journal import Entry
    from collector.spans import Span

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS renumbered (
  id INTEGER PRIMARY KEY AUTOINCREMENT, first_spool INTEGER NOT NULL, first_seq INTEGER NOT NULL,
  content BLOB NOT NULL, spool INTEGER NOT NULL, seq INTEGER NOT NULL, received_us INTEGER NOT NULL,
  UNIQUE (first_spool, first_seq, content, spool, seq));
"""
_NUMBER_AND_DATE: Final = ("spool_id", "seq", "formerly", "started_at", "clock")


class Place(NamedTuple):
    """A number of a spool of the journal."""

    spool: int
    seq: int


def take(connection: sqlite3.Connection, entry: Entry, place: Place, first: Place, received_us: int) -> bool:
    """Store a result that may be here under another number; return False if another result holds its number.

    It comes under `place`, and was `first` under that number: the same one, if it was never given another.
    """
    holder = _payload(connection, place)
    here = holder is not None and same(holder, entry.payload)
    known = here or _is_elsewhere(connection, first, entry.payload)
    if not known:
        if holder is not None:
            return False
        connection.execute(
            "INSERT INTO results (spool, seq, kind, started_us, received_us, payload) VALUES (?, ?, ?, ?, ?, ?)",
            (*place, entry.kind, entry.started_us, received_us, entry.payload),
        )
    if first != place or (known and not here):
        connection.execute(
            "INSERT OR IGNORE INTO renumbered (first_spool, first_seq, content, spool, seq, received_us)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (*first, content(entry.payload), *place, received_us),
        )
    return True


def left(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return the spools (probe_id, spool_id) of which results have come under numbers of others."""
    query = "SELECT DISTINCT probe_id, spool_id FROM renumbered JOIN spools ON spools.spool = first_spool"
    return set(connection.execute(query).fetchall())


def again(connection: sqlite3.Connection) -> dict[int, list[Span]]:
    """Return by spool the numbers under which a result came that is stored under another: no hole, though not there."""
    found = defaultdict[int, list["Span"]](list)
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'renumbered'").fetchone() is not None:
        query = (
            "SELECT spool, seq FROM renumbered EXCEPT SELECT spool, seq FROM results JOIN renumbered USING (spool, seq)"
        )
        for spool, seq in connection.execute(query):
            found[spool].append((seq, seq))
    return found


def same(stored: bytes, arrived: bytes) -> bool:
    """Whether two payloads are one result: in the same bytes, or in another spelling."""
    return stored == arrived or content(stored) == content(arrived)


def content(payload: bytes) -> bytes:
    """Tell results apart by what they say, whatever their number and however they were dated since.

    When a result began counts as its probe's clock had it at that time. What cannot be read counts by its bytes.
    """
    try:
        said = msgspec.json.decode(payload, type=dict[str, Any])
        result = decode_result(payload)
        for name in _NUMBER_AND_DATE:
            said.pop(name, None)
        if result.job is not None:
            said["job"].pop("due", None)
        if isinstance(result.outcome, Throughput):
            said["outcome"]["invalid"] = [one for one in result.outcome.invalid if one is not Invalid.CLOCK_NOT_GOOD]
        began_us = microseconds(result.started_at) - round((result.clock.correction_s or 0.0) * 1_000_000)
        payload = msgspec.json.encode((began_us, said), order="deterministic")
    except (Undecodable, msgspec.DecodeError, ValueError, RecursionError):
        pass
    return hashlib.blake2b(payload, digest_size=16).digest()


def _payload(connection: sqlite3.Connection, place: Place) -> bytes | None:
    row = connection.execute("SELECT payload FROM results WHERE spool = ? AND seq = ?", place).fetchone()
    return row[0] if row is not None else None


def _is_elsewhere(connection: sqlite3.Connection, first: Place, payload: bytes) -> bool:
    """Whether a result is stored under its first number, or under another that it was given later."""
    mine = content(payload)
    query = "SELECT 1 FROM renumbered WHERE first_spool = ? AND first_seq = ? AND content = ?"
    if connection.execute(query, (*first, mine)).fetchone() is not None:
        return True
    original = _payload(connection, first)
    return original is not None and content(original) == mine
