"""What the journal lacks, and what is known of it: numbers of a spool that never came, and runs that were never begun.

A hole is a number that was never stored though a higher one of the same spool was. It is one of three:

- `open`: nobody has said why. The probe may still have it: the collector asks (`collector.asking`).
- `dropped`: the probe's spool was full, and its report names this span and no fewer results than are missing in it.
- `gone`: the probe was asked and has it no more, nor will it ever: given up.

Reads only, except `wish`.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from base import durable, table
from collector import renumbered, spans
from collector.instants import moment
from collector.spans import Span  # msgspec reads it
from wire.codec import Undecodable, decode_result
from wire.events import Dropped, Missed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from collector.journal import Journal

State = Literal["open", "dropped", "gone"]

_NUMBERED: Final = "kind IN ('dropped', 'missed')"
"""Spelled as in the journal's partial index, which serves it."""


class Hole(msgspec.Struct, frozen=True):
    """A closed range of numbers of one spool. `seen`: when a later result showed it; `asked`: how often."""

    probe: str
    spool_id: str
    first: int
    last: int
    state: State
    seen: datetime
    asked: int = 0
    asked_at: datetime | None = None

    @property
    def count(self) -> int:
        """How many numbers."""
        return self.last - self.first + 1


class NotMade(msgspec.Struct, frozen=True):
    """Runs of one job on one link that were wanted and never begun, as the probe tells."""

    probe: str
    link: str | None
    job: str
    reason: str
    count: int
    first: datetime
    last: datetime


class Gaps(msgspec.Struct, frozen=True):
    """Everything that `probe-collector gaps` says."""

    holes: list[Hole]
    not_made: list[NotMade]


class SpoolGaps(msgspec.Struct):
    """One spool: its holes, and what explains parts of them."""

    probe: str
    spool_id: str
    holes: list[Span] = []
    dropped: list[Dropped] = []
    gone: list[Span] = []

    def states(self) -> dict[State, list[Span]]:
        """Sort the holes' numbers by what is known of them."""
        gone = spans.common(self.holes, self.gone)
        left = spans.without(self.holes, gone)
        explained: list[Span] = []
        for report in self.dropped:
            inside = spans.common(left, [(report.first_seq, report.last_seq)])
            if spans.count(inside) <= sum(report.counts.values()):
                explained += inside
        given_up = spans.joined(explained)
        return {"open": spans.without(left, given_up), "dropped": given_up, "gone": gone}


def collect(journal: Journal, *, since: datetime | None = None, probe: str = "") -> Gaps:
    """Find the gaps, of one probe if given, of the time since then if given; raise StorageError."""
    try:
        connection = journal.connection
        connection.execute("BEGIN")  # one view of all tables
        try:
            return Gaps(
                holes=[hole for hole in _holes(connection, probe) if since is None or hole.seen >= since],
                not_made=[one for one in _not_made(connection, probe) if since is None or one.last >= since],
            )
        finally:
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise durable.explain(journal.path, error) from error


def spools(connection: sqlite3.Connection, probe: str = "") -> dict[int, SpoolGaps]:
    """Read every spool that has holes, or those of one probe."""
    found: dict[int, SpoolGaps] = {}
    rows = connection.execute(
        "SELECT spool, probe_id, spool_id, before + 1, seq - 1 FROM ("
        " SELECT spool, seq, LAG(seq, 1, 0) OVER (PARTITION BY spool ORDER BY seq) AS before FROM results"
        ") NATURAL JOIN spools WHERE seq > before + 1 AND (?1 = '' OR probe_id = ?1) ORDER BY spool, seq",
        (probe,),
    )
    for spool, probe_id, spool_id, first, last in rows:
        found.setdefault(spool, SpoolGaps(probe_id, spool_id)).holes.append((first, last))
    for spool, numbers in renumbered.again(connection).items():
        if (lacking := found.get(spool)) is not None:
            lacking.holes = spans.without(lacking.holes, numbers)
    reports: defaultdict[tuple[str, str], list[Dropped]] = defaultdict(list)
    query = f"SELECT probe_id, spool_id, payload FROM results NATURAL JOIN spools WHERE {_NUMBERED}"  # noqa: S608  # a constant
    for probe_id, spool_id, payload in connection.execute(query) if found else ():
        if (report := dropped(payload)) is not None:
            reports[probe_id, report.spool_id or spool_id].append(report)
    for spool, gaps in found.items():
        gaps.dropped = reports[gaps.probe, gaps.spool_id]
        gaps.gone = gone(connection, spool)
    return found


def gone(connection: sqlite3.Connection, spool: int) -> list[Span]:
    """Read what a probe has said it has no more."""
    if not _has(connection, "gone"):
        return []
    return connection.execute("SELECT first, last FROM gone WHERE spool = ?", (spool,)).fetchall()


def wish(journal: Journal, wanted: Iterable[Hole]) -> int:
    """Note that the running collector shall ask for these holes now; return of how many spools; raise StorageError."""
    names = {(hole.probe, hole.spool_id) for hole in wanted}
    journal.wish(names)
    return len(names)


def show(gaps: Gaps) -> str:
    """Write the gaps for people."""
    parts = []
    if gaps.holes:
        rows = [
            [hole.probe, hole.spool_id, _range(hole), hole.count, hole.state, _short(hole.seen), _asked(hole)]
            for hole in gaps.holes
        ]
        parts.append(table.render(["probe", "spool", "numbers", "count", "state", "seen", "asked"], rows))
    totals: defaultdict[State, int] = defaultdict(int)
    for hole in gaps.holes:
        totals[hole.state] += hole.count
    parts.append(
        f"{sum(totals.values())} results missing: {totals['open']} open, {totals['dropped']} dropped by a full spool,"
        f" {totals['gone']} gone for good"
    )
    if gaps.not_made:
        rows = [
            [one.probe, one.link, one.job, one.reason, one.count, _short(one.first), _short(one.last)]
            for one in gaps.not_made
        ]
        parts.append(table.render(["probe", "link", "job", "not made because", "runs", "from", "to"], rows))
    parts.append(f"{sum(one.count for one in gaps.not_made)} runs wanted and not made")
    return "\n\n".join(parts)


def _holes(connection: sqlite3.Connection, probe: str) -> list[Hole]:
    found = []
    for spool, gaps in spools(connection, probe).items():
        query = "SELECT received_us FROM results WHERE spool = ? AND seq > ? ORDER BY seq LIMIT 1"
        asked = None
        if _has(connection, "asked"):
            asked = connection.execute("SELECT times, last_us FROM asked WHERE spool = ?", (spool,)).fetchone()
        times, last_us = asked or (0, 0)
        for state, ranges in gaps.states().items():
            for first, last in ranges:
                seen = moment(connection.execute(query, (spool, last)).fetchone()[0])
                asked_at = moment(last_us) if times else None
                found.append(Hole(gaps.probe, gaps.spool_id, first, last, state, seen, times, asked_at))
    return sorted(found, key=lambda hole: (hole.probe, hole.spool_id, hole.first))


def _not_made(connection: sqlite3.Connection, probe: str) -> list[NotMade]:
    found = []
    query = (
        f"SELECT probe_id, payload FROM results NATURAL JOIN spools WHERE {_NUMBERED} AND (?1 = '' OR probe_id = ?1)"  # noqa: S608  # a constant
    )
    for probe_id, payload in connection.execute(query, (probe,)):
        try:
            result = decode_result(payload)
        except Undecodable:
            continue
        outcome = result.outcome
        if isinstance(outcome, Missed):
            job = result.job.name if result.job is not None else "-"
            found.append(
                NotMade(probe_id, result.link, job, outcome.reason, outcome.count, outcome.first, outcome.last)
            )
    return sorted(found, key=lambda one: (one.probe, one.first, one.job))


def dropped(payload: bytes) -> Dropped | None:
    """Read a report of a full spool; None if a result is something else."""
    try:
        outcome = decode_result(payload).outcome
    except Undecodable:
        return None
    return outcome if isinstance(outcome, Dropped) else None


def _has(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a journal, perhaps an old copy opened to read, has this table."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def _range(hole: Hole) -> str:
    return f"{hole.first}-{hole.last}" if hole.last > hole.first else str(hole.first)


def _asked(hole: Hole) -> str | None:
    return f"{hole.asked}x, last {_short(hole.asked_at)}" if hole.asked_at is not None else None


def _short(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%MZ}"
