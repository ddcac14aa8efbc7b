"""What a full spool gives up: lowest rank first, oldest first; and how that is told, spool by spool."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agent import lives
from wire.codec import Undecodable, decode_result
from wire.events import Dropped

if TYPE_CHECKING:
    import sqlite3

_NUMBERLESS: Final = ""
"""Whose results they were that were given up in memory; a span that joined them to others would explain holes."""


class GivenUp:
    """Results of one spool that are given up: how many of each kind, and the span of their numbers."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.first = 2**63
        self.last = 0

    def add(self, counts: dict[str, int], first: int, last: int) -> None:
        """Count some more."""
        self.counts.update(counts)
        self.first, self.last = min(self.first, first), max(self.last, last)


def make(db: sqlite3.Connection, goal_bytes: int) -> tuple[int, dict[str, GivenUp]]:
    """Delete results worth so many bytes, but not the newest; return the bytes freed and what went, by spool_id."""
    freed, numbers, given_up = 0, list[int](), dict[str, GivenUp]()
    newest = lives.last_number(db)
    query = "SELECT seq, kind, COALESCE(CAST(payload AS BLOB), x'') FROM results WHERE seq < ? ORDER BY rank, seq"
    for number, kind, payload in db.execute(query, (newest,)):
        if freed >= goal_bytes:
            break
        freed += len(payload)
        numbers.append(number)
        spool_id, before = lives.of(db, number)
        given_up.setdefault(spool_id, GivenUp()).add({str(kind): 1}, number - before, number - before)
        outcome = None
        with suppress(Undecodable):  # where it has changed on the card, it says nothing any more
            outcome = decode_result(payload).outcome if kind == "dropped" else None
        if isinstance(outcome, Dropped):  # an earlier report goes: the new one says what it said
            numbered = outcome.spool_id or spool_id if outcome.last_seq else _NUMBERLESS
            again = given_up.setdefault(numbered, GivenUp())
            again.add(outcome.counts, outcome.first_seq, outcome.last_seq)
    db.executemany("DELETE FROM results WHERE seq=?", [(number,) for number in numbers])
    return freed, given_up
