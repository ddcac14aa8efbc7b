"""The tables of a data plan's books in the spool's file, and the statements that read and write them.

Bytes by link and plan day, the last reading of each interface's counters, the planned runs that were begun, what was
said already, what operators said, and which SIM a link's bytes and operator's word are of. Every function works inside
its caller's transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from agent import planner, worn
from agent.meter import Meter
from agent.plan import AHEAD, Spent

if TYPE_CHECKING:
    import sqlite3
    from datetime import date

    from agent.run_cost import Cost

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS spent (link TEXT, day TEXT, bytes INTEGER NOT NULL, PRIMARY KEY (link, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meters (link TEXT PRIMARY KEY, reading BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS planned_runs (link TEXT, job TEXT, day TEXT, slot INTEGER, hour INTEGER NOT NULL,
                                         upload INTEGER NOT NULL, bytes INTEGER, made INTEGER NOT NULL,
                                         PRIMARY KEY (link, day, job, slot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told (link TEXT, what TEXT, day TEXT NOT NULL, PRIMARY KEY (link, what)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS balances (link TEXT PRIMARY KEY, at TEXT NOT NULL, remaining_bytes INTEGER, doubt TEXT,
                                     text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sims (link TEXT PRIMARY KEY, sim TEXT NOT NULL) WITHOUT ROWID;
"""
_CUT_SHORT: Final = 2
"""In `made`, beside 0 and 1: begun and cut short; `bytes` is what all of it would have moved."""
_DAYS_KEPT: Final = 100
_HOURS: Final = 24
_IN_A_DAY: Final = 10**14
"""Bytes; no modem carries more, not even what is booked on one day of a month."""


class Visit(NamedTuple):
    """Where a planned run stands: plan day (YYYY-MM-DD), the day's slot, the local hour, with upload or without."""

    day: str
    slot: int
    hour: int
    upload: bool


class Booking(NamedTuple):
    """Bytes that a link's interface carried, the plan day they are booked on, and the reading that proves them."""

    link: str
    day: str
    grown_bytes: int
    meter: Meter | None = None


class Balance(NamedTuple):
    """What an operator said last: when (ISO), what is left, what in it speaks against our count, and its words."""

    at: str
    remaining_bytes: int | None
    doubt: str | None
    text: str


def spent(db: sqlite3.Connection, link: str, day: date, month_began: date) -> Spent:
    """Sum up a plan day, and the days since the plan month began."""
    days, until = _days(db, link, day.isoformat())[0], (day + AHEAD).isoformat()
    in_day, in_month = (
        sum(count for on, count in days.items() if since.isoformat() <= on <= until) for since in (day, month_began)
    )
    before = ((on, count) for on, count in days.items() if month_began.isoformat() <= on < day.isoformat())
    return Spent(in_day, in_month, tuple(before))


def _days(db: sqlite3.Connection, link: str, today: str) -> tuple[dict[str, int], bool]:
    """Read what a link has carried by day, and whether all of it is what was written.

    What the card has changed must not let a quota be exceeded: bytes that are none count as those of the day that had
    most (no day is known: more than any quota), and what has no day any more counts today. Only a row whose link has
    changed is lost: nobody can say whose it was.
    """
    rows = db.execute("SELECT day, bytes FROM spent WHERE link=?", (link,)).fetchall()
    days = {on: count for on, count in rows if worn.day(on) is not None and worn.is_whole(count, most=_IN_A_DAY)}
    if len(days) == len(rows):
        return days, True
    worn.say(f"the bytes of {link}, so more are taken for spent than may be; that")
    most = max(days.values(), default=_IN_A_DAY)
    for on, count in rows:
        if on not in days or not worn.is_whole(count, most=_IN_A_DAY):
            counts_on = on if worn.day(on) is not None else today
            days[counts_on] = days.get(counts_on, 0) + (count if worn.is_whole(count, most=_IN_A_DAY) else most)
    return days, False


def _mend(db: sqlite3.Connection, link: str, today: str) -> None:
    """Write down what counts, where it is not what was written: else adding to it would make it small."""
    days, sound = _days(db, link, today)
    if not sound:
        db.execute("DELETE FROM spent WHERE link=?", (link,))
        db.executemany("INSERT OR REPLACE INTO spent VALUES (?, ?, ?)", [(link, *one) for one in days.items()])


def change_sim(db: sqlite3.Connection, link: str, sim: str, today: str) -> set[str]:
    """Note which SIM a link has, and bring it that one's books; return the links whose books have changed.

    Books whose SIM was not known until now are this one's. Those of a SIM that is taken out are laid aside under its
    own name (no link has one with a slash). The link where this SIM was, if that was not looked at since, or is no
    more, gives them up: what is in it now is not known. A name that is almost this one's, or no hash at all, is this
    one's, changed by the card: else the books would begin anew.
    """
    row = db.execute("SELECT sim FROM sims WHERE link=?", (link,)).fetchone()
    left = [name for (name,) in db.execute("SELECT link FROM sims WHERE sim=? AND link!=?", (sim, link)).fetchall()]
    had_another = row is not None and row != (sim,) and not _is_spoilt(row[0], sim)
    if had_another:
        _move(db, link, f"sim/{row[0]}", today)
    moved = [_move(db, source, link, today) for source in (f"sim/{sim}", *left)]
    db.execute("DELETE FROM sims WHERE sim=?", (sim,))
    db.execute("INSERT OR REPLACE INTO sims VALUES (?, ?)", (link, sim))
    return {link, *left} if had_another or any(moved) else set(left)


def _is_spoilt(noted: object, sim: str) -> bool:
    """Whether what was noted of a SIM was this one's hash: two hashes have most of their characters apart."""
    if not worn.is_text(noted) or len(noted) != len(sim):
        spoilt = True
    else:
        spoilt = sum(one != other for one, other in zip(noted, sim, strict=True)) <= len(sim) // 8
    if spoilt:
        worn.say("a SIM")
    return spoilt


def rename(db: sqlite3.Connection, former: str, link: str, today: str) -> None:
    """Give a link that has no reading yet the books, the SIM and the reading of one that is no more."""
    _move(db, former, link, today)
    for table in ("sims", "meters"):
        db.execute(f"UPDATE OR IGNORE {table} SET link=? WHERE link=?", (link, former))  # noqa: S608  # two words of ours


def _move(db: sqlite3.Connection, source: str, target: str, today: str) -> bool:
    """Add what one key has of bytes to another's; of the operator's words the later one stays. Whether it had any."""
    for link in (source, target):
        _mend(db, link, today)
    db.execute(
        "INSERT INTO spent SELECT ?, day, bytes FROM spent WHERE link=? "
        "ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
        (target, source),
    )
    db.execute(
        "INSERT INTO balances SELECT ?, at, remaining_bytes, doubt, text FROM balances WHERE link=? "
        "ON CONFLICT DO UPDATE SET at=excluded.at, remaining_bytes=excluded.remaining_bytes, doubt=excluded.doubt, "
        "text=excluded.text WHERE excluded.at > balances.at",
        (target, source),
    )
    gone = [db.execute(f"DELETE FROM {table} WHERE link=?", (source,)) for table in ("spent", "balances")]  # noqa: S608  # two words of ours
    return any(one.rowcount for one in gone)


def meter(db: sqlite3.Connection, link: str) -> Meter | None:
    """Return the last reading that was booked."""
    row = db.execute("SELECT reading FROM meters WHERE link=?", (link,)).fetchone()
    if row is None:
        return None
    try:
        found = msgspec.json.decode(row[0], type=Meter)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
        found = None
    if found is None or not all(map(worn.is_whole, (found.received_bytes, found.sent_bytes))):
        worn.say(f"the counters of {link}")
        return None
    return found


def balance(db: sqlite3.Connection, link: str) -> Balance | None:
    """Return what the operator said last."""
    row = db.execute("SELECT at, remaining_bytes, doubt, text FROM balances WHERE link=?", (link,)).fetchone()
    if row is None:
        return None
    said = Balance(*row)
    left = said.remaining_bytes is None or worn.is_whole(said.remaining_bytes, most=2**63)
    words = worn.is_text(said.text) and (said.doubt is None or worn.is_text(said.doubt))
    if worn.moment(said.at) is None or not left or not words:
        worn.say(f"what the operator of {link} said")
        return None
    return said


def visits(db: sqlite3.Connection, link: str) -> list[planner.Visit]:
    """List the planned runs of the last weeks that were made or missed, oldest first."""
    rows = db.execute(
        "SELECT job, day, slot, hour, upload, bytes, made FROM planned_runs WHERE link=? ORDER BY day, slot", (link,)
    ).fetchall()
    found = []
    for job, on, slot, hour, upload, run_bytes, made in rows:
        day = worn.day(on)
        if day is None or not all(map(worn.is_whole, (slot, hour, made))) or hour >= _HOURS:
            worn.say(f"a planned run of {link}")
            continue
        told = run_bytes if worn.is_whole(run_bytes, least=1, most=_IN_A_DAY) else None
        found.append(planner.Visit(job, day, slot, hour, upload == 1, told, bool(made), made == _CUT_SHORT))
    return found


def visit(db: sqlite3.Connection, link: str, job: str, visit: Visit, *, made: bool) -> None:
    """Note that a planned run begins, or that its time has passed without it; what was begun stays made."""
    clash = "DO UPDATE SET hour=excluded.hour, upload=excluded.upload, bytes=NULL, made=1" if made else "DO NOTHING"
    db.execute(
        f"INSERT INTO planned_runs VALUES (?, ?, ?, ?, ?, ?, NULL, ?) ON CONFLICT {clash}",  # noqa: S608  # two texts of ours
        (link, job, *visit, made),
    )
    prune(db, "planned_runs", link)


def ended(db: sqlite3.Connection, link: str, job: str, visit: Visit, cost: Cost | None) -> None:
    """Note what a planned run that has ended tells of its cost."""
    if cost is not None:
        db.execute(
            "UPDATE planned_runs SET bytes=?, upload=?, made=? WHERE link=? AND day=? AND job=? AND slot=?",
            (cost.run_bytes, cost.upload, _CUT_SHORT if cost.cut_short else 1, link, visit.day, job, visit.slot),
        )


def book(db: sqlite3.Connection, booking: Booking) -> None:
    """Book what was carried, and the reading that proves it."""
    if booking.grown_bytes:
        _mend(db, booking.link, booking.day)
        db.execute(
            "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes", booking[:3]
        )
        prune(db, "spent", booking.link)
    if booking.meter is not None:
        db.execute("INSERT OR REPLACE INTO meters VALUES (?, ?)", (booking.link, msgspec.json.encode(booking.meter)))


def prune(db: sqlite3.Connection, table: Literal["spent", "planned_runs"], link: str) -> None:
    """Keep the last days that have rows, not the last days of the clock: that may be wrong today."""
    db.execute(
        f"DELETE FROM {table} WHERE link=? AND day NOT IN "  # noqa: S608  # one of two words of ours
        f"(SELECT DISTINCT day FROM {table} WHERE link=? ORDER BY day DESC LIMIT {_DAYS_KEPT})",
        (link, link),
    )
