"""Throughput results that the collector has acknowledged, kept for a while in case it loses them after all.

Results are known by their numbers in the file (`agent.lives`). Every function works inside its caller's transaction on
the spool's file. Days are counted by the days that have rows, not by the clock: that may be wrong today.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from agent.lives import Span

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS archive (seq INTEGER PRIMARY KEY, day TEXT NOT NULL, rank INTEGER NOT NULL,
                                    kind TEXT NOT NULL, payload BLOB NOT NULL, crc TEXT NOT NULL);
"""


class Bounds(NamedTuple):
    """How much is kept: results of so many days, up to so many bytes; the oldest go first."""

    days: int = 14
    max_bytes: int = 20_000_000


def keep(db: sqlite3.Connection, numbers: Sequence[tuple[int]], rank: int, bounds: Bounds) -> None:
    """Copy what leaves the spool, if it is of this rank, and let the oldest go."""
    kept = db.executemany(
        "INSERT OR REPLACE INTO archive SELECT seq, date('now'), rank, kind, payload, crc FROM results"
        " WHERE seq = ? AND rank = ?",
        [(number, rank) for (number,) in numbers],
    ).rowcount
    if kept <= 0:
        return
    db.execute(
        "DELETE FROM archive WHERE day NOT IN (SELECT DISTINCT day FROM archive ORDER BY day DESC LIMIT ?)",
        (bounds.days,),
    )
    db.execute(
        "DELETE FROM archive WHERE seq IN (SELECT seq FROM ("
        " SELECT seq, SUM(LENGTH(payload)) OVER (ORDER BY seq DESC) AS held FROM archive) WHERE held > ?)",
        (bounds.max_bytes,),
    )


def bring_back(db: sqlite3.Connection, life: Span, ranges: Iterable[tuple[int, int]], limit: int) -> int:
    """Put archived results of these ranges of a life back among those to send, at most so many; return their bytes."""
    grown = 0
    for first, last in ranges:
        rows = db.execute(
            "SELECT seq, rank, kind, COALESCE(CAST(payload AS BLOB), x''), crc FROM archive WHERE seq BETWEEN ? AND ?"
            " AND seq NOT IN (SELECT seq FROM results) ORDER BY seq LIMIT ?",
            (*life.numbers(first, last), max(0, limit)),
        ).fetchall()
        db.executemany("INSERT INTO results (seq, rank, kind, payload, crc) VALUES (?, ?, ?, ?, ?)", rows)
        limit -= len(rows)
        grown += sum(len(payload) for _, _, _, payload, _ in rows)
    return grown


def gone(db: sqlite3.Connection, life: Span, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """List what of these ranges of a life will never be sent again."""
    found: list[tuple[int, int]] = []
    for first, last in ranges:
        span = life.numbers(first, last)
        held = db.execute(
            "SELECT seq FROM results WHERE seq BETWEEN ?1 AND ?2"
            " UNION SELECT seq FROM archive WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq",
            span,
        ).fetchall()
        found += [
            (begin - life.before, end - life.before) for begin, end in _between(span, [number for (number,) in held])
        ]
    return found


def _between(span: tuple[int, int], held: Sequence[int]) -> list[tuple[int, int]]:
    """Return the closed ranges of `span` that leave out the numbers in `held`, which ascend."""
    edges = [span[0] - 1, *held, span[1] + 1]
    return [(before + 1, after - 1) for before, after in itertools.pairwise(edges) if after - before > 1]
