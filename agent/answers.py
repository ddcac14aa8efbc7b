"""What becomes of results that the collector has answered, or that the card has spoilt: let go, or kept aside.

Every function works inside its caller's transaction on the spool's file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent import archive, lives, numbering, rank, salvage, worn
from wire.codec import check_at, encode
from wire.events import Damaged

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

_ASIDE_AT_MOST: Final = 1000


def stored(db: sqlite3.Connection, spool_id: str, ranges: Iterable[tuple[int, int]], checks: str) -> list[int]:
    """List the numbers of what waits and the collector has stored, see `Spool.acknowledge`.

    Where that is nothing, it may be that the card has changed which numbers these are: raise worn.Misnumbered.
    """
    found = _stored(db, spool_id, ranges, checks)
    if not found and (fault := numbering.fault(db)) is not None:
        raise worn.Misnumbered(fault)
    return found


def _stored(db: sqlite3.Connection, spool_id: str, ranges: Iterable[tuple[int, int]], checks: str) -> list[int]:
    life = lives.span(db, spool_id)
    if life is None:
        return []
    found: list[int] = []
    at = 0
    for first, last in ranges:
        rows = db.execute("SELECT seq, crc FROM results WHERE seq BETWEEN ? AND ?", life.numbers(first, last))
        found += [
            number for number, crc in rows if not checks or crc == check_at(checks, at + number - life.before - first)
        ]
        at += max(0, last - first + 1)
    return found


def let_go(db: sqlite3.Connection, owed: Iterable[tuple[int, int]], bounds: archive.Bounds) -> int:
    """Delete what stands under these ranges of numbers; return how many that were."""
    removed = 0
    for span in owed:
        numbers = db.execute("SELECT seq FROM results WHERE seq BETWEEN ? AND ?", span).fetchall()
        archive.keep(db, numbers, rank.KEPT_LAST, bounds)
        removed += db.execute("DELETE FROM results WHERE seq BETWEEN ? AND ?", span).rowcount
    return removed


def meant(db: sqlite3.Connection, spool_id: str, seq: int, check_text: str) -> int | None:
    """Find the number of the result that a refusal means; None if it has gone, or another one has it by now."""
    life = lives.span(db, spool_id)
    if life is None or not 0 < seq <= life.last - life.before:
        return None
    row = db.execute("SELECT crc FROM results WHERE seq=?", (life.before + seq,)).fetchone()
    return life.before + seq if row is not None and check_text in {"", row[0]} else None


def put_aside(db: sqlite3.Connection, number: int, reason: str) -> None:
    """Keep a result that will not be sent any more, for a while."""
    db.execute("INSERT OR IGNORE INTO refused SELECT seq, ?, payload FROM results WHERE seq=?", (reason[:500], number))
    db.execute("DELETE FROM results WHERE seq=?", (number,))
    db.execute("DELETE FROM refused WHERE seq <= (SELECT MAX(seq) FROM refused) - ?", (_ASIDE_AT_MOST,))


def put_spoilt_aside(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """Keep back results whose bytes have changed on the card: they prove nothing. The loss is reported."""
    report = salvage.report_of(db) or Damaged(saved=0, unreadable=0)
    for number in numbers:
        put_aside(db, number, "changed on the card")
    report = msgspec.structs.replace(
        report, unreadable=report.unreadable + len(numbers), detail=report.detail or "results changed on the card"
    )
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (salvage.DAMAGE, encode(report)))
