"""What must survive a restart beside the queue: which slot each job ran last, runs under way, and each SIM's spending.

It stands in the spool's file, so that one commit covers a run and its result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent import ledger, time_repair, worn
from agent.deferred import Account, Run
from agent.spool_file import SpoolFile

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from datetime import date, datetime

    from agent.ledger import Balance, Booking
    from agent.meter import Meter
    from agent.plan import Spent
    from agent.planner import Visit as PastVisit
    from agent.timesync import Boot


class Notebook(SpoolFile):
    """The notes in the file. Any method may raise StorageError; then nothing has changed."""

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
            enter(db, account)
            db.execute("UPDATE meta SET value = value + 1 WHERE key='made'")

    def account(self, *accounts: Account) -> None:
        """Note up to where slots are accounted for."""
        with self._transaction(fsync=False) as db:
            for one in accounts:
                enter(db, one)

    def accounts(self) -> dict[tuple[str, str], Account]:
        """Tell for each (job, link) up to where its slots are accounted for."""
        with self._reading() as db:
            rows = db.execute("SELECT job, link, every_s, slot FROM accounts").fetchall()
            noted = [Account(*row) for row in rows if _readable("which turns are over", row[2:])]
            noted += [one.account for one in self._deferred if one.account is not None]
        return {(one.job, one.link): one for one in noted}

    def last_slots(self) -> dict[tuple[str, str], int]:
        """Tell which slot each (job, link) ran last."""
        with self._reading() as db:
            rows = db.execute("SELECT job, link, slot FROM runs").fetchall()
            slots = {(job, link): slot for job, link, slot in rows if _readable("the last runs", (slot,))}
            runs = [one.ends for one in self._deferred if one.ends is not None]
        return slots | {(run.job, run.link): run.slot for run in runs}

    def under_way(self) -> list[tuple[Run, str]]:
        """List runs that began and never ended, with the ISO time of their begin."""
        with self._reading() as db:
            rows = db.execute("SELECT job, link, slot, started_at FROM runs WHERE under_way=1").fetchall()
        return [
            (Run(job, link, slot), started_at)
            for job, link, slot, started_at in rows
            if _readable("a run under way", (slot,), (job, link))
        ]

    def last_began(self) -> datetime | None:
        """Tell when the last run began, of those that a trusted clock stamped."""
        query = "SELECT started_at FROM runs WHERE (job, link) NOT IN (SELECT job, link FROM untimed_runs)"
        with self._reading() as db:
            found = [worn.moment(started_at) for (started_at,) in db.execute(query).fetchall()]
        if None in found:
            worn.say("when a run began")
        return max(filter(None, found), default=None)

    def run_began(self, run: Run) -> Boot | None:
        """Tell when a run began that a doubtful clock stamped."""
        with self._reading() as db:
            return time_repair.run_began(db, run.job, run.link)

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

    def change_sim(self, link: str, sim: str, today: str, *bookings: Booking) -> set[str]:
        """Book this on the books as they are, then note which SIM a link has; return the links whose books changed."""
        with self._transaction() as db:
            for booking in bookings:
                ledger.book(db, booking)
            return ledger.change_sim(db, link, sim, today)

    def meter(self, link: str) -> Meter | None:
        """Return the last reading that was booked."""
        with self._reading() as db:
            return ledger.meter(db, link)

    def metered(self) -> set[str]:
        """Name the links that have a reading."""
        with self._reading() as db:
            return {link for (link,) in db.execute("SELECT link FROM meters").fetchall()}

    def rename(self, former: str, link: str, today: str) -> None:
        """Give a link the books, the SIM and the reading of one that is no more."""
        with self._transaction() as db:
            ledger.rename(db, former, link, today)

    def visits(self, link: str) -> list[PastVisit]:
        """List the planned runs of the last weeks that were made or missed, oldest first."""
        with self._reading() as db:
            return ledger.visits(db, link)

    def told(self, link: str, what: str, day: str) -> bool:
        """Whether this was said on this day already."""
        with self._reading() as db:
            row = db.execute("SELECT 1 FROM told WHERE link=? AND what=? AND day=?", (link, what, day)).fetchone()
        return row is not None

    def told_when(self, link: str, what: str) -> str | None:
        """Return the day, or whatever `tell` was given for it, when this was said last."""
        with self._reading() as db:
            row = db.execute("SELECT day FROM told WHERE link=? AND what=?", (link, what)).fetchone()
        return str(row[0]) if row is not None else None

    def tell(self, link: str, what: str, day: str) -> None:
        """Note that this was said on this day."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO told VALUES (?, ?, ?)", (link, what, day))

    def balance(self, link: str) -> Balance | None:
        """Return what the operator said last."""
        with self._reading() as db:
            return ledger.balance(db, link)

    def keep_balance(self, link: str, balance: Balance) -> None:
        """Record what the operator said."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO balances VALUES (?, ?, ?, ?, ?)", (link, *balance))


def _readable(what: str, numbers: Iterable[object], names: Iterable[object] = ()) -> bool:
    """Whether these are what was written, as far as anybody can tell."""
    readable = all(worn.is_whole(number, least=-1) for number in numbers) and all(map(worn.is_name, names))
    if not readable:
        worn.say(what)
    return readable


def enter(db: sqlite3.Connection, account: Account | None) -> None:
    """Note up to where slots are accounted for, inside the caller's transaction."""
    if account is not None:
        db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?)", account[:4])
        for visit in account.missed:
            ledger.visit(db, account.link, account.job, visit, made=False)
