"""The agent's durable queue. A result is on disk when `append` returns, and leaves when the collector has named it.

Telemetry may be deferred instead (`agent.deferred`) and comes to disk with the next cadence or the next `append`, all
in one commit; only then has it a number, and only then can it be sent. The file is `agent.spool_file`'s, what else
stands in it `agent.notebook`'s.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent import answers, archive, ledger, lives, room, salvage, time_repair, worn
from agent.deferred import Account, Deferred, DeferredFile, Run
from agent.notebook import Notebook, enter
from agent.rank import rank
from base.durable import StorageError
from wire.codec import Undecodable, check, decode_result, encode, is_intact
from wire.delivery import CONFLICT, MAX_RESEND_RESULTS
from wire.events import Dropped
from wire.results import Number, Result, ResultId

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from agent.ledger import Booking
    from agent.run_cost import Cost
    from agent.time_repair import Undated
    from agent.timesync import Boot
    from wire.delivery import Refusal
    from wire.events import Damaged

log = logging.getLogger(__name__)

_REPORT_BYTES: Final = 512
_DEFERRED_AT_MOST: Final = 500


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


class Spool(Notebook):
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
        super().__init__(path)
        self._max_bytes = max_bytes
        self._defer_s = defer_s
        self._archived = archived or archive.Bounds()
        self._deferred_file = DeferredFile(path, memory_dir or path.parent)
        if defer_s:
            self._deferred = self._deferred_file.left_behind(self._generation)
        self._deferred_since_s = time.monotonic() - defer_s

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
        cost: Cost | None = None,
        began: Boot | None = None,
    ) -> ResultId:
        """Give the result its identity and store it durably; in the same commit end its run and book what it spent.

        `cost`: what the run tells of the cost of such runs, if anything. `began`: when the run did, if the wall clock
        cannot be believed: the result is held back until `release`. If the spool is over its bound, its oldest
        results of the lowest rank make room, and a `Dropped` result says which.
        """
        with self._lock:
            with self._transaction() as db:
                size = self._take_over(db)
                identity, size = self._take_in(db, Deferred(result, ends, began=began), size)
                if ends is not None and ends.visit is not None:
                    ledger.ended(db, ends.link, ends.job, ends.visit, cost)
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
        query = (
            "SELECT seq, payload, crc FROM results WHERE seq > ? AND seq < ?"
            " AND seq NOT IN (SELECT seq FROM untimed) ORDER BY seq LIMIT ?"
        )
        rows: list[tuple[int, bytes, str]] = []
        with self._reading() as db:
            for after, before in self._owed.others():
                if len(rows) == count:
                    break
                rows += db.execute(query, (after, before, count - len(rows))).fetchall()
        spoilt = [seq for seq, payload, known in rows if not is_intact(payload, known)]
        if spoilt:
            with suppress(StorageError):  # a card that takes no note of it still has the others to send
                with self._transaction() as db:
                    answers.put_spoilt_aside(db, spoilt)
                log.error(
                    "%s: %d results have changed on the card; they are kept aside, not sent", self._path, len(spoilt)
                )
        return [Waiting(seq, payload) for seq, payload, _ in rows if seq not in spoilt]

    def acknowledge(self, spool_id: str, ranges: Iterable[tuple[int, int]], checks: str = "") -> int:
        """Let go what the collector has stored: closed ranges of seq. An ack for another spool changes nothing.

        With `checks` (see wire.delivery.Ack) a number whose result is another one by now is not let go. What the disk
        refuses to let go is not shown any more all the same; `settle` lets it go.
        """
        with self._lock:
            with self._reading() as db:
                stored = answers.stored(db, spool_id, ranges, checks)
            self._owed.add(stored)
            return self.settle()

    def settle(self) -> int:
        """Let go what is acknowledged and still there; return how many results that were."""
        with self._lock:
            if not self._owed:
                return 0
            with self._transaction(fsync=False) as db:
                removed = answers.let_go(db, self._owed, self._archived)
                if removed:
                    self._weigh(db)
            self._owed.clear()
        return removed

    def resend(self, spool_id: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Queue again what of these closed ranges the archive has; return the ranges that will never come again.

        At most MAX_RESEND_RESULTS are queued, and none while the spool is more than half full: ask again later.
        """
        with self._transaction(fsync=False) as db:
            life = lives.span(db, spool_id)
            if life is None:
                return list(ranges)
            life = life._replace(last=min(life.last, lives.last_number(db)))
            grown = 0
            if self._bytes < self._max_bytes // 2:
                grown = archive.bring_back(db, life, ranges, MAX_RESEND_RESULTS)
            lost = archive.gone(db, life, ranges)
            self._bytes += grown
        return lost

    def refuse(self, spool_id: str, refusals: Iterable[Refusal]) -> None:
        """Do in one commit what the collector's refusals ask for.

        A result whose number another one holds (`conflict`) gets a number of a new spool. That happens when this file
        is an old copy (a card put back, or copied): the numbers of the life that the result belongs to cannot be
        trusted any more, so what is made from now on belongs to a new one. The result says which number it had first:
        by that the collector knows it again, whatever comes of this file. What it will never take for another reason is
        put aside, so that it is kept but not sent for ever.
        """
        with self._transaction() as db:
            moved = 0
            aside: list[Refusal] = []
            for one in refusals:
                number = answers.meant(db, spool_id, one.seq, one.check)
                if number is None:
                    continue
                if one.reason.startswith(CONFLICT):
                    self._refile(db, number, spool_id, one.seq)
                    moved += 1
                else:
                    answers.put_aside(db, number, one.reason)
                    aside.append(one)
            self._weigh(db)
        if aside:
            first = aside[0]
            log.error("the collector refuses %d results, first %d: %s; kept aside", len(aside), first.seq, first.reason)
        if moved:
            log.warning("%d results of spool %s travel under numbers of spool %s", moved, spool_id, self.spool_id)

    def counts(self) -> Counts:
        """Count runs made, results spooled ever, waiting now, and refused; what is deferred is not yet among them."""
        with self._reading() as db:
            rows = db.execute("SELECT key, value FROM meta WHERE key != 'spool_id'").fetchall()
            meta = {key: value if worn.is_whole(value) else 0 for key, value in rows}
            waiting = db.execute("SELECT COUNT(*) FROM results").fetchone()[0]
            refused = db.execute("SELECT COUNT(*) FROM refused").fetchone()[0]
        made, last, refiled = (meta.get(key, 0) for key in ("made", "last_seq", "refiled"))
        return Counts(made, max(0, last - refiled), waiting, refused)

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
            self._weigh(db)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _may_defer(self) -> bool:
        """Whether there is room, and somebody commits in time: else the disk refuses, or nobody calls `flush`."""
        left_s = self.flush_in_s()
        overdue = left_s is not None and left_s < -self._defer_s
        return self._defer_s > 0 and len(self._deferred) < _DEFERRED_AT_MOST and not overdue

    def _take_over(self, db: sqlite3.Connection) -> int:
        """Give numbers to what is deferred and store it; return how many bytes the spool then has."""
        size = self._bytes
        saved = salvage.rescued(db) if self._deferred else set()
        for one in self._deferred:
            if encode(one.result) in saved:  # committed as the agent was killed, and saved from a log that broke before
                enter(db, one.account)
            else:
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
        enter(db, one.account)
        return identity, size

    def _insert(self, db: sqlite3.Connection, result: Result, began: Boot | None) -> tuple[ResultId, bytes]:
        number = lives.next_number(db)
        seq = number - self._before
        payload = encode(msgspec.structs.replace(result, spool_id=self.spool_id, seq=seq))
        kind = type(result.outcome).__struct_config__.tag
        db.execute(
            "INSERT INTO results (seq, rank, kind, payload, crc) VALUES (?, ?, ?, ?, ?)",
            (number, rank(result), kind, payload, check(payload)),
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
        report = salvage.report_of(db)
        if report is None:
            return 0
        db.execute("DELETE FROM meta WHERE key=?", (salvage.DAMAGE,))
        return self._report(db, beside, report, began)

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

    def _refile(self, db: sqlite3.Connection, number: int, spool_id: str, seq: int) -> None:
        """Give a result a number of a new spool."""
        query = "SELECT COALESCE(CAST(payload AS BLOB), x'') FROM results WHERE seq=?"
        (payload,) = db.execute(query, (number,)).fetchone()
        try:
            result = decode_result(payload)
        except Undecodable as error:
            answers.put_aside(db, number, str(error))
            return
        if spool_id == self.spool_id:
            self._begin_life(db)
        formerly = result.formerly or Number(spool_id=spool_id, seq=seq)
        self._insert(db, msgspec.structs.replace(result, formerly=formerly), None)
        db.execute("DELETE FROM results WHERE seq=?", (number,))
        db.execute("UPDATE meta SET value = value + 1 WHERE key='refiled'")

    def _begin_life(self, db: sqlite3.Connection) -> None:
        old = self.spool_id
        self._before = lives.last_number(db)
        self.spool_id = lives.begin(db, self._before)
        log.error("the collector holds other results under the numbers of spool %s: this card is an old copy", old)
        log.error("a new spool, %s, begins; the results go with it", self.spool_id)
