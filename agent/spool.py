"""The agent's durable queue. A result is on disk when `append` returns, and leaves when the collector has named it.

Telemetry may be deferred instead (`agent.deferred`) and comes to disk with the next cadence or the next `append`, all
in one commit; only then has it a number, and only then can it be sent. Commits that may be done again after a power cut
(an acknowledgement, the begin of a telemetry run) are not fsynced by themselves: SQLite writes its log in order, so a
later fsync covers them, and a power cut takes a tail of them and never a part.

It also keeps what must survive a restart beside the queue: which slot each job ran last, a run that was under way when
the power went, and what each SIM has spent. All in one SQLite file, so that one commit covers a run and its result.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent import archive, ledger, lives, room, salvage, time_repair
from agent.deferred import Account, Deferred, DeferredFile, Run
from agent.ledger import Balance, Booking
from base.durable import StorageError, explain
from wire.codec import Undecodable, check, check_at, decode, decode_result, encode
from wire.delivery import MAX_RESEND_RESULTS
from wire.events import Damaged, Dropped, Missed, PlanState
from wire.measured import Failed, Throughput
from wire.results import Result, ResultId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime
    from pathlib import Path

    from agent.meter import Meter
    from agent.plan import Spent
    from agent.planner import Visit as PastVisit
    from agent.time_repair import Undated
    from agent.timesync import Boot

log = logging.getLogger(__name__)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (seq INTEGER PRIMARY KEY, rank INTEGER NOT NULL, kind TEXT NOT NULL,
                                    payload BLOB NOT NULL, crc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS results_by_rank ON results (rank, seq);
CREATE TABLE IF NOT EXISTS refused (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS runs (job TEXT, link TEXT, slot INTEGER NOT NULL, started_at TEXT NOT NULL,
                                 under_way INTEGER NOT NULL, PRIMARY KEY (job, link)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (job TEXT, link TEXT, every_s INTEGER NOT NULL, slot INTEGER NOT NULL,
                                     PRIMARY KEY (job, link)) WITHOUT ROWID;
"""
_VERSION: Final = 2
_REFUSED_KEPT: Final = 1000
_REPORT_BYTES: Final = 512
_DEFERRED_AT_MOST: Final = 500

# Who goes first when the spool is full: telemetry, then latency and services, then what a verdict stands on.
_RANK_TELEMETRY: Final = 0
_RANK_LATENCY: Final = 1
_RANK_KEPT_LAST: Final = 2
_SERVICES: Final = {"latency", "ping", "dns", "web"}


class Waiting(NamedTuple):
    """One spooled result, as it will travel. `seq` is its number in the file, see `agent.lives`."""

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

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        defer_s: float = 0.0,
        memory_dir: Path | None = None,
        archived: archive.Bounds | None = None,
    ) -> None:
        """Open the spool or create it; of one that is damaged the rest is saved, and the next result reports it.

        `defer_s`: how long telemetry may be deferred, in a file in `memory_dir` (without it, beside the spool). With 0
        nothing is, and what another one has deferred is left to it.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._defer_s = defer_s
        self._archived = archived or archive.Bounds()
        self._lock = threading.RLock()
        self._generation = 0
        self.spool_id = ""
        self._before = 0
        self._bytes = 0
        self._db = self._open()
        self._deferred_file = DeferredFile(path, memory_dir or path.parent)
        self._deferred = self._deferred_file.left_behind(self._generation) if defer_s else []
        self._deferred_since_s = time.monotonic() - defer_s

    def _open(self) -> sqlite3.Connection:
        db = salvage.open_spool(
            self._path,
            _SCHEMA + lives.SCHEMA + ledger.SCHEMA + time_repair.SCHEMA + archive.SCHEMA,
            version=_VERSION,
            rank=_rank,
        )
        try:
            db.execute("BEGIN IMMEDIATE")
            _upgrade(db)
            db.executemany(
                "INSERT OR IGNORE INTO meta VALUES (?, 0)", [("last_seq",), ("made",), ("refiled",), ("deferred",)]
            )
            meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
            self.spool_id = meta.get("spool_id") or lives.begin(db, meta["last_seq"])
            self._before = lives.before(db, self.spool_id)
            self._generation = db.execute("SELECT value FROM meta WHERE key='deferred'").fetchone()[0]
            self._bytes = db.execute("SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM results").fetchone()[0]
            db.execute("COMMIT")
        except BaseException as error:
            db.close()
            if isinstance(error, sqlite3.Error):
                raise explain(self._path, error) from error
            raise
        return db

    def close(self) -> None:
        """Take over what is deferred, and close the file; raise StorageError if that is not possible."""
        try:
            self.flush()
        finally:
            self._db.close()

    # --- results --------------------------------------------------------------------------------------------------

    def append(
        self,
        result: Result,
        *,
        ends: Run | None = None,
        booking: Booking | None = None,
        run_bytes: int | None = None,
        began: Boot | None = None,
    ) -> ResultId:
        """Give the result its identity and store it durably; in the same commit end its run and book what it spent.

        `run_bytes`: what the run moved, if that tells what such runs cost. `began`: when the run did, if the wall clock
        cannot be believed: the result is held back until `release`. If the spool is over its bound, its oldest
        results of the lowest rank make room, and a `Dropped` result says which.
        """
        with self._lock:
            with self._transaction() as db:
                size = self._take_over(db)
                identity, size = self._take_in(db, Deferred(result, ends, began=began), size)
                if ends is not None and ends.visit is not None:
                    ledger.moved(db, ends.link, ends.job, ends.visit, run_bytes)
                if booking is not None:
                    ledger.book(db, booking)
            self._taken_over(size)
        return identity

    def defer(
        self, result: Result, *, ends: Run | None = None, account: Account | None = None, began: Boot | None = None
    ) -> None:
        """Keep a result for the next commit; a kill loses nothing, a power cut what is deferred, of `defer_s` seconds.

        Where the last commit is overdue, or nothing can be deferred, it is committed now.
        """
        one = Deferred(result, ends, account, began)
        with self._lock:
            if self._may_defer():
                try:
                    if not self._deferred:
                        self._deferred_since_s = time.monotonic()
                        self._deferred_file.begin(self._generation + 1)
                    self._deferred_file.add(one)
                except OSError as error:
                    log.warning("%s: %s; telemetry goes to the spool at once", self._path, error)
                else:
                    self._deferred.append(one)
                    return
            with self._transaction() as db:
                _, size = self._take_in(db, one, self._take_over(db))
            self._taken_over(size)

    def flush(self) -> None:
        """Commit what is deferred."""
        with self._lock:
            if self._deferred:
                with self._transaction() as db:
                    size = self._take_over(db)
                self._taken_over(size)

    def flush_in_s(self) -> float | None:
        """Tell in how many seconds what is deferred is to be committed; None while nothing is."""
        with self._lock:
            return self._deferred_since_s + self._defer_s - time.monotonic() if self._deferred else None

    def oldest(self, count: int) -> list[Waiting]:
        """Show the results that wait and may be sent, oldest first."""
        query = "SELECT seq, payload, crc FROM results WHERE seq NOT IN (SELECT seq FROM untimed) ORDER BY seq LIMIT ?"
        with self._reading() as db:
            rows = db.execute(query, (count,)).fetchall()
        spoilt = [seq for seq, payload, known in rows if check(payload) != known]
        if spoilt:
            self._put_spoilt_aside(spoilt)
        return [Waiting(seq, payload) for seq, payload, _ in rows if seq not in spoilt]

    def acknowledge(self, spool_id: str, ranges: Iterable[tuple[int, int]], checks: str = "") -> int:
        """Let go what the collector has stored: closed ranges of seq. An ack for another spool changes nothing.

        With `checks` (see wire.delivery.Ack) a number whose result is another one by now is not let go.
        """
        removed = at = 0
        with self._transaction(fsync=False) as db:
            life = lives.span(db, spool_id)
            if life is None:
                return 0
            for first, last in ranges:
                span = (life.before + max(first, 1), min(life.before + last, life.last))
                rows = db.execute("SELECT seq, crc FROM results WHERE seq BETWEEN ? AND ?", span).fetchall()
                stored = [
                    (number,)
                    for number, crc in rows
                    if not checks or crc == check_at(checks, at + number - life.before - first)
                ]
                archive.keep(db, stored, _RANK_KEPT_LAST, self._archived)
                removed += db.executemany("DELETE FROM results WHERE seq=?", stored).rowcount if stored else 0
                at += last - first + 1
            if removed:
                self._bytes = db.execute("SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM results").fetchone()[0]
        return removed

    def resend(self, spool_id: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Queue again what of these closed ranges the archive has; return the ranges that will never come again.

        At most MAX_RESEND_RESULTS are queued, and none while the spool is more than half full: ask again later.
        """
        with self._transaction(fsync=False) as db:
            life = lives.span(db, spool_id)
            if life is None:
                return list(ranges)
            grown = 0
            if self._bytes < self._max_bytes // 2:
                grown = archive.bring_back(db, life, ranges, MAX_RESEND_RESULTS)
            last_number = db.execute("SELECT value FROM meta WHERE key='last_seq'").fetchone()[0]
            lost = archive.gone(db, life, ranges, last_number)
            self._bytes += grown
        return lost

    def refuse(self, spool_id: str, seq: int, reason: str, check_text: str = "") -> None:
        """Put aside a result that the collector will never take, so that it is kept but not sent for ever."""
        with self._transaction() as db:
            number = self._refused_number(db, spool_id, seq, check_text)
            if number is not None:
                self._put_aside(db, number, reason)

    def refile(self, spool_id: str, seq: int, check_text: str = "") -> None:
        """Give a result a number of a new spool: the collector holds another one under its own.

        That happens when this file is an old copy (a card put back, or copied). The numbers of the life that it
        belongs to cannot be trusted any more, so what is made from now on belongs to a new one.
        """
        with self._transaction() as db:
            number = self._refused_number(db, spool_id, seq, check_text)
            if number is None:
                return
            (payload,) = db.execute("SELECT payload FROM results WHERE seq=?", (number,)).fetchone()
            try:
                result = decode_result(payload)
            except Undecodable as error:
                self._put_aside(db, number, str(error))
                return
            if spool_id == self.spool_id:
                self._begin_life(db)
            identity, again = self._insert(db, result, None)
            lives.refile(db, number, spool_id, seq)
            self._bytes += len(again) - len(payload)
        log.warning("result %d of spool %s travels as %d of spool %s", seq, spool_id, identity.seq, identity.spool_id)

    def counts(self) -> Counts:
        """Count runs made, results spooled ever, waiting now, and refused; what is deferred is not yet among them."""
        with self._reading() as db:
            meta: dict[str, int] = dict(db.execute("SELECT key, value FROM meta WHERE key != 'spool_id'"))
            waiting = db.execute("SELECT COUNT(*) FROM results").fetchone()[0]
            refused = db.execute("SELECT COUNT(*) FROM refused").fetchone()[0]
        return Counts(meta["made"], meta["last_seq"] - meta["refiled"], waiting, refused)

    # --- results whose time is in doubt: agent.time_repair ----------------------------------------------------------

    def undated(self) -> list[Undated]:
        """List what is held back, oldest first; some of it, if it is much."""
        with self._reading() as db:
            return time_repair.undated(db)

    def count_undated(self) -> int:
        """Count what is held back."""
        with self._reading() as db:
            count: int = db.execute("SELECT COUNT(*) FROM untimed JOIN results USING (seq)").fetchone()[0]
        return count

    def release(self, payloads: Mapping[int, bytes | None]) -> None:
        """Let results go to the collector, as they are given here; None: as they are stored."""
        with self._transaction() as db:
            time_repair.release(db, payloads)
            self._bytes = db.execute("SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM results").fetchone()[0]

    def last_began(self) -> str | None:
        """Tell when the last run began (ISO), of those that a trusted clock stamped."""
        query = "SELECT MAX(started_at) FROM runs WHERE (job, link) NOT IN (SELECT job, link FROM untimed_runs)"
        with self._reading() as db:
            last: str | None = db.execute(query).fetchone()[0]
        return last

    def run_began(self, run: Run) -> Boot | None:
        """Tell when a run began that a doubtful clock stamped."""
        with self._reading() as db:
            return time_repair.run_began(db, run.job, run.link)

    # --- runs and spending ------------------------------------------------------------------------------------------

    def begin(
        self,
        run: Run,
        started_at: datetime,
        began: Boot | None = None,
        *,
        account: Account | None = None,
        fsync: bool = True,
    ) -> None:
        """Note that a run begins: its slot will not be run again, and a kill mid-run will show.

        With `fsync` losing power mid-run will show too. `began`: when it does, if the wall clock cannot be believed.
        """
        with self._transaction(fsync=fsync) as db:
            time_repair.note_run(db, run.job, run.link, began)
            db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, 1)",
                (run.job, run.link, run.slot, started_at.isoformat()),
            )
            if run.visit is not None:
                ledger.visit(db, run.link, run.job, run.visit, made=True)
            _enter(db, account)
            db.execute("UPDATE meta SET value = value + 1 WHERE key='made'")

    def account(self, *accounts: Account) -> None:
        """Note up to where slots are accounted for."""
        with self._transaction(fsync=False) as db:
            for one in accounts:
                _enter(db, one)

    def accounts(self) -> dict[tuple[str, str], Account]:
        """Tell for each (job, link) up to where its slots are accounted for."""
        with self._reading() as db:
            noted = [Account(*row) for row in db.execute("SELECT job, link, every_s, slot FROM accounts").fetchall()]
            noted += [one.account for one in self._deferred if one.account is not None]
        return {(one.job, one.link): one for one in noted}

    def last_slots(self) -> dict[tuple[str, str], int]:
        """Tell which slot each (job, link) ran last."""
        with self._reading() as db:
            slots = {(job, link): slot for job, link, slot in db.execute("SELECT job, link, slot FROM runs")}
            runs = [one.ends for one in self._deferred if one.ends is not None]
        return slots | {(run.job, run.link): run.slot for run in runs}

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
        """List the planned runs of the last weeks that were made or missed, oldest first."""
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

    def _may_defer(self) -> bool:
        """Whether there is room, and somebody commits in time: else the disk refuses, or nobody calls `flush`."""
        left_s = self.flush_in_s()
        overdue = left_s is not None and left_s < -self._defer_s
        return self._defer_s > 0 and len(self._deferred) < _DEFERRED_AT_MOST and not overdue

    def _take_over(self, db: sqlite3.Connection) -> int:
        """Give numbers to what is deferred and store it; return how many bytes the spool then has."""
        size = self._bytes
        for one in self._deferred:
            _, size = self._take_in(db, one, size)
        if self._deferred:
            db.execute("UPDATE meta SET value = value + 1 WHERE key='deferred'")
        return size

    def _taken_over(self, size: int) -> None:
        """After the commit: nothing is deferred any more."""
        self._bytes = size
        if self._deferred:
            self._deferred = []
            self._generation += 1
            self._deferred_file.forget()

    def _take_in(self, db: sqlite3.Connection, one: Deferred, size: int) -> tuple[ResultId, int]:
        """Give a result its number and store it, end its run; return how many bytes the spool then has."""
        identity, payload = self._insert(db, one.result, one.began)
        size += len(payload) + self._report_damage(db, one.result, one.began)
        if size > self._max_bytes:
            size += self._make_room(db, one.result, size, one.began)
        if one.ends is not None and one.ends.noted:
            db.execute("UPDATE runs SET under_way=0 WHERE job=? AND link=?", (one.ends.job, one.ends.link))
        else:  # made without a run that was noted before: a look at the radio, a step of the recovery ladder
            db.execute("UPDATE meta SET value = value + 1 WHERE key='made'")
        if one.ends is not None and not one.ends.noted:
            row = (one.ends.job, one.ends.link, one.ends.slot, one.result.started_at.isoformat())
            db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, 0)", row)
            time_repair.note_run(db, one.ends.job, one.ends.link, one.began)
        _enter(db, one.account)
        return identity, size

    def _insert(self, db: sqlite3.Connection, result: Result, began: Boot | None) -> tuple[ResultId, bytes]:
        number: int = db.execute("UPDATE meta SET value = value + 1 WHERE key='last_seq' RETURNING value").fetchone()[0]
        seq = number - self._before
        payload = encode(msgspec.structs.replace(result, spool_id=self.spool_id, seq=seq))
        kind = type(result.outcome).__struct_config__.tag
        db.execute(
            "INSERT INTO results (seq, rank, kind, payload, crc) VALUES (?, ?, ?, ?, ?)",
            (number, _rank(result), kind, payload, check(payload)),
        )
        time_repair.note(db, number, began)
        return ResultId(result.probe_id, self.spool_id, seq), payload

    def _make_room(self, db: sqlite3.Connection, newest: Result, held: int, began: Boot | None) -> int:
        """Free a twentieth of the bound, lowest rank and oldest first, not the newest; return the change in bytes."""
        goal = held - self._max_bytes + self._max_bytes // 20 + _REPORT_BYTES
        freed, given_up = room.make(db, goal)
        grown = -freed
        for spool_id, gone in given_up.items():
            counts, whose = dict(gone.counts), "" if spool_id == self.spool_id else spool_id
            outcome = Dropped(counts=counts, first_seq=gone.first, last_seq=gone.last, spool_id=whose)
            grown += self._report(db, newest, outcome, began)
            log.warning("spool is full (%d bytes): gave up %s", self._max_bytes, counts)
        return grown

    def _report_damage(self, db: sqlite3.Connection, beside: Result, began: Boot | None) -> int:
        """Spool the report of a damaged file, if one waits for a result to be made; return its bytes."""
        row = db.execute("SELECT value FROM meta WHERE key=?", (salvage.DAMAGE,)).fetchone()
        if row is None:
            return 0
        db.execute("DELETE FROM meta WHERE key=?", (salvage.DAMAGE,))
        return self._report(db, beside, decode(row[0], Damaged), began)

    def _report(self, db: sqlite3.Connection, beside: Result, outcome: Dropped | Damaged, began: Boot | None) -> int:
        """Spool a word of the spool itself, with the site, the clock and the time of the result beside it."""
        _, payload = self._insert(
            db,
            Result(
                probe_id=beside.probe_id,
                site=beside.site,
                started_at=beside.started_at,
                clock=beside.clock,
                agent_version=beside.agent_version,
                outcome=outcome,
            ),
            began,
        )
        return len(payload)

    def _begin_life(self, db: sqlite3.Connection) -> None:
        old = self.spool_id
        self._before = db.execute("SELECT value FROM meta WHERE key='last_seq'").fetchone()[0]
        self.spool_id = lives.begin(db, self._before)
        log.error("the collector holds other results under the numbers of spool %s: this card is an old copy", old)
        log.error("a new spool, %s, begins; the results go with it", self.spool_id)

    def _refused_number(self, db: sqlite3.Connection, spool_id: str, seq: int, check_text: str) -> int | None:
        """Find the result that a refusal means; None if it has gone, or the number is another result's by now."""
        life = lives.span(db, spool_id)
        if life is None or not 0 < seq <= life.last - life.before:
            return None
        row = db.execute("SELECT crc FROM results WHERE seq=?", (life.before + seq,)).fetchone()
        return life.before + seq if row is not None and check_text in {"", row[0]} else None

    def _put_aside(self, db: sqlite3.Connection, number: int, reason: str) -> None:
        db.execute(
            "INSERT OR IGNORE INTO refused SELECT seq, ?, payload FROM results WHERE seq=?", (reason[:500], number)
        )
        db.execute("DELETE FROM results WHERE seq=?", (number,))
        db.execute("DELETE FROM refused WHERE seq <= (SELECT MAX(seq) FROM refused) - ?", (_REFUSED_KEPT,))

    def _put_spoilt_aside(self, numbers: list[int]) -> None:
        """Keep back results whose bytes have changed on the card: they prove nothing. The loss is reported."""
        log.error("%s: %d results have changed on the card; they are kept aside and not sent", self._path, len(numbers))
        with self._transaction() as db:
            row = db.execute("SELECT value FROM meta WHERE key=?", (salvage.DAMAGE,)).fetchone()
            report = decode(row[0], Damaged) if row is not None else Damaged(saved=0, unreadable=0)
            for number in numbers:
                self._put_aside(db, number, "changed on the card")
            report = msgspec.structs.replace(
                report,
                unreadable=report.unreadable + len(numbers),
                detail=report.detail or "results changed on the card",
            )
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (salvage.DAMAGE, encode(report)))

    @contextmanager
    def _transaction(self, *, fsync: bool = True) -> Iterator[sqlite3.Connection]:
        with self._lock:
            identity = self.spool_id, self._before
            try:
                self._db.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                self.spool_id, self._before = identity
                if isinstance(error, sqlite3.Error):
                    self._roll_back()
                    raise self._explained(error) from error
                self._roll_back()
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise self._explained(error) from error

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _explained(self, error: sqlite3.Error) -> StorageError:
        """Say what is wrong; a file that proves to be damaged while it is used is rebuilt at once."""
        explained = explain(self._path, error)
        if salvage.is_damage(error) or "closed" in str(error):  # closed: rebuilding it did not work the last time
            self._db.close()
            self._db = self._open()
        return explained


def _upgrade(db: sqlite3.Connection) -> None:
    """Bring a file of format 1 up to date: results without a check, and one life that is not written down."""
    if not any(column[1] == "crc" for column in db.execute("PRAGMA table_info(results)")):
        db.execute("ALTER TABLE results ADD COLUMN crc TEXT NOT NULL DEFAULT ''")
        rows = db.execute("SELECT seq, payload FROM results").fetchall()
        db.executemany("UPDATE results SET crc=? WHERE seq=?", [(check(payload), seq) for seq, payload in rows])
        db.execute("INSERT INTO lives SELECT value, 0 FROM meta WHERE key='spool_id'")


def is_telemetry(result: Result) -> bool:
    """Whether a result may be deferred and sent with others: a verdict does not stand on it, nobody is called by it."""
    if isinstance(result.outcome, PlanState | Missed):
        return True
    return result.job is not None and result.job.measurement != "throughput"


def _enter(db: sqlite3.Connection, account: Account | None) -> None:
    if account is not None:
        db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?)", account[:4])
        for visit in account.missed:
            ledger.visit(db, account.link, account.job, visit, made=False)


def _rank(result: Result) -> int:
    outcome = result.outcome
    throughput_wanted = result.job is not None and result.job.measurement == "throughput"
    if isinstance(outcome, Throughput | Dropped | Damaged) or (isinstance(outcome, Failed) and throughput_wanted):
        return _RANK_KEPT_LAST
    served = result.job is not None and result.job.measurement in _SERVICES
    return _RANK_LATENCY if served else _RANK_TELEMETRY
