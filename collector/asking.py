"""Asks probes for what the journal lacks, and tells the database what is missing.

A thread with a journal connection of its own. It reads every result's number once; after that, only what is new. A hole
that nobody has explained and that stays is asked for: rarely, bounded, and only of probes that are online. The probe
sends what it still has as any other result, and says what is gone for good.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from base import durable
from base.durable import StorageError
from collector import gaps, points, spans
from collector.gaps import SpoolGaps  # msgspec reads it
from collector.spans import Span  # the same
from collector.stats import says_online
from wire import codec
from wire.delivery import MAX_RESEND_RANGES, MAX_RESEND_RESULTS, Resend

if TYPE_CHECKING:
    from collections.abc import Callable

    from collector.journal import Journal
    from collector.settings import ResendSettings

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 5.0
POINTS_EVERY_S: Final = 300.0
_NEXT_AFTER_S: Final = 90
"""A probe obeys one command a minute."""
_READ_AT_ONCE: Final = 20_000
_SAY_AGAIN_AFTER_S: Final = 600.0
_AFTER_FAULT_S: Final = 60.0
_US: Final = 1_000_000


class Question(NamedTuple):
    """What to ask of a probe."""

    spool: int
    probe: str
    command: Resend


class Coverage(msgspec.Struct):
    """What of one spool has come: numbers from 1 to `highest`, but for the holes; `since_us`: when each was seen."""

    known: SpoolGaps
    highest: int = 0
    since_us: dict[Span, int] = {}

    def add(self, seq: int, received_us: int) -> None:
        """Note a number that has come."""
        if seq > self.highest:
            if seq > self.highest + 1:
                hole = (self.highest + 1, seq - 1)
                self.known.holes.append(hole)
                self.since_us[hole] = received_us
            self.highest = seq
            return
        for hole in self.known.holes:
            if hole[0] <= seq <= hole[1]:
                parts = spans.without([hole], [(seq, seq)])
                at = self.known.holes.index(hole)
                self.known.holes[at : at + 1] = parts
                seen_us = self.since_us.pop(hole)
                self.since_us |= dict.fromkeys(parts, seen_us)
                return

    def open(self, before_us: int) -> list[Span]:
        """List what is unexplained and was seen missing before then."""
        old = [hole for hole in self.known.holes if self.since_us[hole] <= before_us]
        return spans.common(self.known.states()["open"], old)


class Asker:
    """The thread. `ask` sends a command to a probe and tells whether it could; `tell` takes a point to be written."""

    def __init__(
        self,
        journal: Journal,
        settings: ResendSettings,
        ask: Callable[[str, bytes], bool],
        tell: Callable[[str], None],
    ) -> None:
        """Take over `journal`, a connection of its own."""
        self._journal = journal
        self._settings = settings
        self._ask = ask
        self._tell = tell
        self._spools: dict[int, Coverage] = {}
        self._names: dict[tuple[str, str], int] = {}
        self._asked_for: dict[int, list[Span]] = {}
        self._unnoted: dict[int, int] = {}
        """Spools that were asked for, or may have been, and when; the journal does not know of it yet."""
        self._cursor = -1
        self._renumbered = 0
        self._told: dict[str, tuple[int, int, int]] = {}
        self._told_at_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asker")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and close the journal."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        said_at_s = -_SAY_AGAIN_AFTER_S
        try:
            while not self._stopping.wait(LOOK_EVERY_S if self._cursor >= 0 else 0.0):
                try:
                    self.step(time.time_ns() // 1000)
                except StorageError as error:
                    if time.monotonic() - said_at_s >= _SAY_AGAIN_AFTER_S:
                        log.warning("gaps are not looked for: %s", error)
                        said_at_s = time.monotonic()
                    self._stopping.wait(LOOK_EVERY_S)
                except Exception:
                    log.exception(
                        "the search for gaps failed on an error of its own; collecting goes on, and it begins anew"
                    )
                    self._forget()
                    self._stopping.wait(_AFTER_FAULT_S)
        finally:
            self._journal.close()

    def _forget(self) -> None:
        """Read all anew at the next step."""
        self._spools.clear()
        self._names.clear()
        self._cursor = -1
        self._renumbered = 0

    def step(self, now_us: int) -> None:
        """Read what is new, ask what is to be asked, tell what is missing; raise StorageError.

        A question that cannot be noted is not asked again, and until it is noted nothing else is.
        """
        self._note()
        try:
            connection = self._journal.connection
            self._read(connection)
            questions = self._questions(connection, now_us)
        except sqlite3.Error as error:
            raise durable.explain(self._journal.path, error) from error
        for one in questions:
            self._unnoted[one.spool] = now_us
            if not self._ask(one.probe, codec.encode(one.command)):
                del self._unnoted[one.spool]
                continue
            self._asked_for[one.spool] = list(one.command.ranges)
            count = spans.count(one.command.ranges)
            log.info("asked %s for %d results of %s that never came", one.probe, count, one.command.spool_id)
            self._note()
        self._tell_points(now_us)

    def _note(self) -> None:
        for spool, asked_us in [*self._unnoted.items()]:
            self._journal.asked(spool, asked_us)
            del self._unnoted[spool]

    def _read(self, connection: sqlite3.Connection) -> None:
        if self._cursor < 0:
            self._read_all(connection)
        newest = connection.execute("SELECT COALESCE(MAX(id), 0) FROM results").fetchone()[0]
        while self._cursor < newest and not self._stopping.is_set():
            last = min(self._cursor + _READ_AT_ONCE, newest)
            self._read_some(connection, last)
            self._cursor = last
        query = "SELECT id, spool, seq, received_us FROM renumbered WHERE id > ? ORDER BY id"
        for row_id, spool, seq, received_us in connection.execute(query, (self._renumbered,)).fetchall():
            self._renumbered = row_id
            (self._spools.get(spool) or self._meet(connection, spool)).add(seq, received_us)
        for spool, coverage in self._spools.items():
            if coverage.known.holes:
                coverage.known.gone = gaps.gone(connection, spool)

    def _read_some(self, connection: sqlite3.Connection, last: int) -> None:
        """Read up to this id: spool by spool where the numbers simply went on, else one by one as they came."""
        here = "results WHERE id > ? AND id <= ?"
        bounds = (self._cursor, last)
        query = f"SELECT spool, MIN(seq), MAX(seq), COUNT(*), COUNT(NULLIF(kind, 'dropped')) FROM {here} GROUP BY spool"  # noqa: S608  # a constant
        others = []
        for spool, first, highest, count, plain in connection.execute(query, bounds).fetchall():
            coverage = self._spools.get(spool) or self._meet(connection, spool)
            if first == coverage.highest + 1 and highest - first + 1 == count == plain:
                coverage.highest = highest
            else:
                others.append(spool)
        query = (
            "SELECT spool, seq, received_us, CASE kind WHEN 'dropped' THEN payload END"  # noqa: S608  # constants
            f" FROM {here} AND spool IN (SELECT value FROM json_each(?)) ORDER BY id"
        )
        rows = connection.execute(query, (*bounds, msgspec.json.encode(others).decode())) if others else ()
        for spool, seq, received_us, report in rows:
            coverage = self._spools[spool]
            coverage.add(seq, received_us)
            if report is not None and (outcome := gaps.dropped(report)) is not None:
                whose = (coverage.known.probe, outcome.spool_id or coverage.known.spool_id)
                if (other := self._names.get(whose)) is not None:
                    self._spools[other].known.dropped.append(outcome)

    def _read_all(self, connection: sqlite3.Connection) -> None:
        """Read where every spool stands, from the index alone, whatever the journal's size."""
        connection.execute("BEGIN")  # one view of all tables
        try:
            newest = connection.execute("SELECT COALESCE(MAX(id), 0) FROM results").fetchone()[0]
            known = gaps.spools(connection)
            for spool, highest in connection.execute("SELECT spool, MAX(seq) FROM results GROUP BY spool").fetchall():
                coverage = self._meet(connection, spool)
                coverage.known = known.get(spool, coverage.known)
                coverage.highest = highest
                for hole in coverage.known.holes:
                    query = "SELECT received_us FROM results WHERE spool = ? AND seq > ? ORDER BY seq LIMIT 1"
                    coverage.since_us[hole] = connection.execute(query, (spool, hole[1])).fetchone()[0]
            self._cursor = newest
        finally:
            connection.execute("COMMIT")

    def _meet(self, connection: sqlite3.Connection, spool: int) -> Coverage:
        query = "SELECT probe_id, spool_id FROM spools WHERE spool = ?"
        name = connection.execute(query, (spool,)).fetchone()
        self._spools[spool] = Coverage(gaps.SpoolGaps(*name))
        self._names[name] = spool
        return self._spools[spool]

    def _questions(self, connection: sqlite3.Connection, now_us: int) -> list[Question]:
        """Choose what to ask: one command to a probe at a time, whichever of its spools the last one was about.

        The next of a spool when the last was answered, or is long ago; what a person wishes as soon as the probe obeys.
        """
        asked = dict(connection.execute("SELECT spool, last_us FROM asked").fetchall())
        wished = {spool for (spool,) in connection.execute("SELECT spool FROM asked WHERE wished")}
        just_asked = {spool for spool, last_us in asked.items() if 0 <= now_us - last_us < _NEXT_AFTER_S * _US}
        resting = {self._spools[spool].known.probe for spool in just_asked & self._spools.keys()}
        ready = _online(connection) - resting
        found: dict[str, Question] = {}
        for spool, coverage in self._spools.items():
            probe = coverage.known.probe
            if probe in found or probe not in ready or not coverage.known.holes:
                continue
            patience_us = 0 if spool in wished else self._settings.after_s * _US
            still_open = coverage.open(now_us - patience_us)
            answered = not spans.common(still_open, self._asked_for.get(spool, still_open))
            pause_s = _NEXT_AFTER_S if answered else self._settings.again_s
            due = self._settings.ask and asked.get(spool, 0) + pause_s * _US <= now_us
            ranges = spans.at_most(still_open, MAX_RESEND_RANGES, MAX_RESEND_RESULTS)
            if ranges and (due or spool in wished):
                command = Resend(spool_id=coverage.known.spool_id, ranges=tuple(ranges))
                found[probe] = Question(spool, probe, command)
        return list(found.values())

    def _tell_points(self, now_us: int) -> None:
        """Give the database a point for every probe that lacks something, or lacked it when it was told last."""
        if time.monotonic() - self._told_at_s < POINTS_EVERY_S and self._told_at_s:
            return
        self._told_at_s = time.monotonic()
        lacking: dict[str, tuple[int, int, int]] = {}
        for coverage in self._spools.values():
            states = coverage.known.states() if coverage.known.holes else {}
            counts = [spans.count(states.get(state, [])) for state in ("open", "dropped", "gone")]
            before = lacking.get(coverage.known.probe, (0, 0, 0))
            lacking[coverage.known.probe] = (before[0] + counts[0], before[1] + counts[1], before[2] + counts[2])
        for probe, (open_count, dropped, gone) in lacking.items():
            if any((open_count, dropped, gone)) or any(self._told.get(probe, ())):
                self._tell(points.gap_line(probe, now_us, open_count=open_count, dropped=dropped, gone=gone))
        self._told = lacking


def _online(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT probe_id, status FROM probes")
    return {probe for probe, status in rows if says_online(status)}
