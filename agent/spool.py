"""The agent's durable queue. A result is on disk when `append` returns, and leaves when the collector has named it.

It also keeps what must survive a restart beside the queue: which slot each job ran last, a run that was under way when
the power went, and what each SIM has spent. All in one SQLite file, so that one commit covers a run and its result.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent import ledger
from agent.ledger import Balance, Booking, Visit
from base.durable import StorageError, explain, open_database
from wire.codec import decode_result, encode
from wire.messages import Dropped, Failed, Result, ResultId, Throughput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date, datetime

    from agent.meter import Meter
    from agent.plan import Spent
    from agent.planner import Visit as PastVisit

log = logging.getLogger(__name__)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (seq INTEGER PRIMARY KEY, rank INTEGER NOT NULL, kind TEXT NOT NULL,
                                    payload BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS results_by_rank ON results (rank, seq);
CREATE TABLE IF NOT EXISTS refused (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS runs (job TEXT, link TEXT, slot INTEGER NOT NULL, started_at TEXT NOT NULL,
                                 under_way INTEGER NOT NULL, PRIMARY KEY (job, link)) WITHOUT ROWID;
"""
_VERSION: Final = 1
_REFUSED_KEPT: Final = 1000
_REPORT_BYTES: Final = 512

# Who goes first when the spool is full: telemetry, then latency, then what a verdict stands on.
_RANK_TELEMETRY: Final = 0
_RANK_LATENCY: Final = 1
_RANK_KEPT_LAST: Final = 2


class Run(NamedTuple):
    """A run of a job on a link, in its slot; one that the day's plan wants names its place there."""

    job: str
    link: str
    slot: int
    visit: Visit | None = None


class Waiting(NamedTuple):
    """One spooled result, as it will travel."""

    seq: int
    payload: bytes


class Counts(NamedTuple):
    """What the spool has seen in its life, and what it holds."""

    made: int
    spooled: int
    waiting: int
    refused: int


class Spool:
    """The spool file, for several threads. Any method may raise StorageError; then nothing has changed."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        """Open the spool or create it; one that is damaged is moved aside, reported, and replaced."""
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._db = _open_or_replace(path)
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('spool_id', ?)", (secrets.token_hex(8),))
            db.executemany("INSERT OR IGNORE INTO meta VALUES (?, 0)", [("last_seq",), ("made",)])
            self.spool_id: str = db.execute("SELECT value FROM meta WHERE key='spool_id'").fetchone()[0]
            self._bytes: int = db.execute("SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM results").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # --- results --------------------------------------------------------------------------------------------------

    def append(
        self,
        result: Result,
        *,
        ends: Run | None = None,
        booking: Booking | None = None,
        run_bytes: int | None = None,
    ) -> ResultId:
        """Give the result its identity and store it durably; in the same commit end its run and book what it spent.

        `run_bytes`: what the run moved, if that tells what such runs cost. If the spool is over its bound, its oldest
        results of the lowest rank make room, and a `Dropped` result says which.
        """
        with self._transaction() as db:
            identity, payload = self._insert(db, result)
            grown = self._bytes + len(payload)
            if grown > self._max_bytes:
                grown += self._make_room(db, result, grown)
            if ends is not None:
                db.execute("UPDATE runs SET under_way=0 WHERE job=? AND link=?", (ends.job, ends.link))
                if ends.visit is not None:
                    db.execute(
                        "UPDATE visits SET bytes=? WHERE link=? AND day=? AND job=? AND slot=?",
                        (run_bytes, ends.link, ends.visit.day, ends.job, ends.visit.slot),
                    )
            else:  # made without a run that was noted before: a step of the recovery ladder
                db.execute("UPDATE meta SET value = value + 1 WHERE key='made'")
            if booking is not None:
                ledger.book(db, booking)
        self._bytes = grown
        return identity

    def oldest(self, count: int) -> list[Waiting]:
        """Show the results that wait, oldest first."""
        with self._reading() as db:
            rows = db.execute("SELECT seq, payload FROM results ORDER BY seq LIMIT ?", (count,)).fetchall()
        return [Waiting(*row) for row in rows]

    def acknowledge(self, spool_id: str, ranges: Iterable[tuple[int, int]]) -> int:
        """Let go what the collector has stored: closed ranges of seq. An ack for another spool changes nothing."""
        if spool_id != self.spool_id:
            return 0
        removed = 0
        with self._transaction() as db:
            for span in ranges:
                removed += db.execute("DELETE FROM results WHERE seq BETWEEN ? AND ?", span).rowcount
            if removed:
                self._bytes = db.execute("SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM results").fetchone()[0]
        return removed

    def refuse(self, spool_id: str, seq: int, reason: str) -> None:
        """Put aside a result that the collector will never take, so that it is kept but not sent for ever."""
        if spool_id != self.spool_id:
            return
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO refused SELECT seq, ?, payload FROM results WHERE seq=?", (reason[:500], seq)
            )
            db.execute("DELETE FROM results WHERE seq=?", (seq,))
            db.execute("DELETE FROM refused WHERE seq <= (SELECT MAX(seq) FROM refused) - ?", (_REFUSED_KEPT,))

    def counts(self) -> Counts:
        """Count runs made, results spooled ever, waiting now, and refused."""
        with self._reading() as db:
            meta: dict[str, int] = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('made', 'last_seq')"))
            waiting = db.execute("SELECT COUNT(*) FROM results").fetchone()[0]
            refused = db.execute("SELECT COUNT(*) FROM refused").fetchone()[0]
        return Counts(meta["made"], meta["last_seq"], waiting, refused)

    # --- runs and spending ------------------------------------------------------------------------------------------

    def begin(self, run: Run, started_at: datetime) -> None:
        """Note durably that a run begins: its slot will not be run again, and losing power mid-run will show."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, 1)",
                (run.job, run.link, run.slot, started_at.isoformat()),
            )
            if run.visit is not None:
                day, slot, cell, upload = run.visit
                db.execute(
                    "INSERT OR REPLACE INTO visits VALUES (?, ?, ?, ?, ?, ?, NULL)",
                    (run.link, run.job, day, slot, cell, upload),
                )
                ledger.prune(db, "visits", run.link)
            db.execute("UPDATE meta SET value = value + 1 WHERE key='made'")

    def last_slots(self) -> dict[tuple[str, str], int]:
        """Tell which slot each (job, link) ran last."""
        with self._reading() as db:
            return {(job, link): slot for job, link, slot in db.execute("SELECT job, link, slot FROM runs")}

    def under_way(self) -> list[tuple[Run, str]]:
        """List runs that began and never ended, with the ISO time of their begin."""
        with self._reading() as db:
            rows = db.execute("SELECT job, link, slot, started_at FROM runs WHERE under_way=1").fetchall()
        return [(Run(job, link, slot), started_at) for job, link, slot, started_at in rows]

    # --- the books of the data plan -------------------------------------------------------------------------------

    def spent(self, link: str, day: date, month_began: date) -> Spent:
        """Tell what a link's interface has carried on a plan day and since its plan month began."""
        with self._reading() as db:
            return ledger.spent(db, link, day, month_began)

    def book(self, *bookings: Booking) -> None:
        """Book what was carried outside of runs."""
        with self._transaction() as db:
            for booking in bookings:
                ledger.book(db, booking)

    def meter(self, link: str) -> Meter | None:
        """Return the last reading that was booked."""
        with self._reading() as db:
            return ledger.meter(db, link)

    def visits(self, link: str) -> list[PastVisit]:
        """List the planned runs of the last weeks, oldest first."""
        with self._reading() as db:
            return ledger.visits(db, link)

    def told(self, link: str, what: str, day: str) -> bool:
        """Whether this was said on this day already."""
        with self._reading() as db:
            row = db.execute("SELECT 1 FROM told WHERE link=? AND what=? AND day=?", (link, what, day)).fetchone()
        return row is not None

    def tell(self, link: str, what: str, day: str) -> None:
        """Note that this was said on this day."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO told VALUES (?, ?, ?)", (link, what, day))

    def balance(self, link: str) -> Balance | None:
        """Return what the operator said last."""
        with self._reading() as db:
            row = db.execute("SELECT at, remaining_bytes, doubt, text FROM balances WHERE link=?", (link,)).fetchone()
        return Balance(*row) if row is not None else None

    def keep_balance(self, link: str, balance: Balance) -> None:
        """Record what the operator said."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO balances VALUES (?, ?, ?, ?, ?)", (link, *balance))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _insert(self, db: sqlite3.Connection, result: Result) -> tuple[ResultId, bytes]:
        seq: int = db.execute("UPDATE meta SET value = value + 1 WHERE key='last_seq' RETURNING value").fetchone()[0]
        payload = encode(msgspec.structs.replace(result, spool_id=self.spool_id, seq=seq))
        kind = type(result.outcome).__struct_config__.tag
        db.execute("INSERT INTO results VALUES (?, ?, ?, ?)", (seq, _rank(result), kind, payload))
        return ResultId(result.probe_id, self.spool_id, seq), payload

    def _make_room(self, db: sqlite3.Connection, newest: Result, held: int) -> int:
        """Free a twentieth of the bound, lowest rank and oldest first, not the newest; return the change in bytes."""
        goal = held - self._max_bytes + self._max_bytes // 20 + _REPORT_BYTES
        freed, seqs, counts = 0, list[int](), Counter[str]()
        newest_seq = db.execute("SELECT value FROM meta WHERE key='last_seq'").fetchone()[0]
        first_seq = newest_seq
        for seq, kind, payload in db.execute(
            "SELECT seq, kind, payload FROM results WHERE seq < ? ORDER BY rank, seq", (newest_seq,)
        ):
            if freed >= goal:
                break
            freed += len(payload)
            seqs.append(seq)
            first_seq = min(first_seq, seq)
            outcome = decode_result(payload).outcome if kind == "dropped" else None
            if isinstance(outcome, Dropped):  # an earlier report goes: the new one says what it said
                counts.update(outcome.counts)
                first_seq = min(first_seq, outcome.first_seq)
            counts[kind] += 1
        if not seqs:
            return 0
        db.executemany("DELETE FROM results WHERE seq=?", [(seq,) for seq in seqs])
        _, report = self._insert(
            db,
            Result(
                probe_id=newest.probe_id,
                site=newest.site,
                started_at=newest.started_at,
                clock=newest.clock,
                agent_version=newest.agent_version,
                outcome=Dropped(counts=dict(counts), first_seq=first_seq, last_seq=max(seqs)),
            ),
        )
        log.warning("spool is full (%d bytes): gave up %s", self._max_bytes, dict(counts))
        return len(report) - freed

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise explain(self._path, error) from error
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise explain(self._path, error) from error


def _rank(result: Result) -> int:
    outcome = result.outcome
    throughput_wanted = result.job is not None and result.job.measurement == "throughput"
    if isinstance(outcome, Throughput | Dropped) or (isinstance(outcome, Failed) and throughput_wanted):
        return _RANK_KEPT_LAST
    return _RANK_LATENCY if result.job is not None and result.job.measurement == "latency" else _RANK_TELEMETRY


def _open_or_replace(path: Path) -> sqlite3.Connection:
    try:
        db = open_database(path, _SCHEMA + ledger.SCHEMA, user_version=_VERSION)
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict == "ok":
            return db
        db.close()
    except (StorageError, sqlite3.DatabaseError) as error:
        if "damaged" not in str(error) and "malformed" not in str(error):
            raise
        verdict = str(error)
    aside = _free_name(path)
    for suffix in ("", "-wal", "-shm"):
        if (part := Path(f"{path}{suffix}")).exists():
            part.replace(f"{aside}{suffix}")
    log.error("%s is damaged (%s): kept as %s and not sent; a new spool begins", path, verdict, aside)
    return open_database(path, _SCHEMA + ledger.SCHEMA, user_version=_VERSION)


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside
