"""Whether what the spool's file says of its results' numbers can be right; if not, the file has to be rebuilt.

Looked at when the file is opened. The results themselves are the witnesses: each names its spool and its number there.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from agent import worn
from wire.codec import Undecodable, decode_result, is_intact

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator


def fault(db: sqlite3.Connection) -> str | None:
    """Say what cannot be right; None where nothing speaks against the numbers. A file of format 1 is believed."""
    if not any(column[1] == "crc" for column in db.execute("PRAGMA table_info(results)")):
        return None
    meta = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('last_seq', 'spool_id')").fetchall())
    known = db.execute("SELECT spool_id, before FROM lives ORDER BY before").fetchall()
    highest = db.execute("SELECT COALESCE(MAX(seq), 0) FROM results").fetchone()[0]
    if not meta and not known and not highest:
        return None  # a new file
    last = meta.get("last_seq")
    if not worn.is_whole(last) or last < highest:
        return f"the last number is given as {last!r}"
    return _fault_of_lives(db, known, last, meta.get("spool_id"))


def _fault_of_lives(db: sqlite3.Connection, known: list[tuple[str, int]], last: int, present: str | None) -> str | None:
    if not all(worn.is_text(spool_id) and worn.is_whole(before, most=last) for spool_id, before in known):
        return "a spool that is none"
    if present is not None and present not in dict(known):
        return f"nothing is known of its spool {present!r}"
    edges = [("", -1), *known, ("", last)]
    for (spool_id, before), (_, until) in pairwise(edges):
        for number, payload in _witnesses(db, before, until):
            if not _is(payload, spool_id, number - before):
                return f"number {number} is of another spool than {spool_id!r}"
    return None


def _witnesses(db: sqlite3.Connection, before: int, until: int) -> Iterator[tuple[int, bytes]]:
    """Read the first and the last result of a range of numbers, where they are what they were."""
    for order in ("ASC", "DESC"):
        query = f"SELECT seq, payload, crc FROM results WHERE seq > ? AND seq <= ? ORDER BY seq {order} LIMIT 1"  # noqa: S608  # words of ours
        row = db.execute(query, (before, until)).fetchone()
        if row is not None and is_intact(*row[1:]):
            yield row[:2]


def _is(payload: bytes, spool_id: str, seq: int) -> bool:
    try:
        result = decode_result(payload)
    except Undecodable:
        return True  # not ours to judge
    return (result.spool_id, result.seq) == (spool_id, seq)
