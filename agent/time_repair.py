"""Results that were made before the clock was set: held in the spool, repaired from CLOCK_BOOTTIME, and then sent.

A doubtful clock stamps its result as it stamps any other, and a row beside it says how long the machine had been up.
Once the clock is right, the true instant is now less the time since. What no clock can tell any more (made in an
earlier boot, or held for too long) is sent with its wrong time and says so. Identity and order never change; each step
is one commit, so that a kill leaves a result held or repaired, never in between.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent import validity, worn
from agent.timesync import Boot, boot_now, boots_without_time, installed_s
from wire.codec import Undecodable, check, decode_result, encode, is_intact
from wire.reasons import Invalid

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from agent.clock import Clock
    from agent.settings import ClockSettings
    from agent.spool import Spool
    from wire.results import Clock as ClockQuality
    from wire.results import Result

log = logging.getLogger(__name__)

STEP_S: Final = 1.0
"""Clocks that differ by more were set: slewing moves the wall clock by 0.5 ms a second, chrony's at most by 0.1 s."""
_AT_ONCE: Final = 500
_LOOKS: Final = 5
_TIGHT_S: Final = 0.01
_LONGEST_BOOT_S: Final = 100 * 365 * 86_400.0

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS untimed (seq INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, boottime_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS untimed_runs (job TEXT, link TEXT, boot_id TEXT NOT NULL, boottime_s REAL NOT NULL,
                                         PRIMARY KEY (job, link)) WITHOUT ROWID;
"""


class Trust(Enum):
    """What is known of the wall clock."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


class Start(NamedTuple):
    """The clocks when a run began; `offset_s` is the wall clock less CLOCK_BOOTTIME."""

    at: Boot
    offset_s: float
    doubted: bool

    @property
    def began(self) -> Boot | None:
        """When it did, if the wall clock could not be believed."""
        return self.at if self.doubted else None


class Undated(NamedTuple):
    """A result whose time is in doubt, as it is stored, and when it began. `seq` is its number in the file."""

    seq: int
    payload: bytes
    intact: bool
    began: Boot


# --- the tables; each inside its caller's transaction -----------------------------------------------------------------


def note(db: sqlite3.Connection, seq: int, began: Boot | None) -> None:
    """Hold a result back until its time is known; not at all if its clock is trusted."""
    if began is not None:
        db.execute("INSERT INTO untimed VALUES (?, ?, ?)", (seq, *began))


def note_run(db: sqlite3.Connection, job: str, link: str, began: Boot | None) -> None:
    """Note that a run begins by a doubtful clock, or by one that is trusted."""
    db.execute("DELETE FROM untimed_runs WHERE job=? AND link=?", (job, link))
    if began is not None:
        db.execute("INSERT INTO untimed_runs VALUES (?, ?, ?, ?)", (job, link, *began))


def run_began(db: sqlite3.Connection, job: str, link: str) -> Boot | None:
    """Tell when a run began that was noted by a doubtful clock."""
    row = db.execute("SELECT boot_id, boottime_s FROM untimed_runs WHERE job=? AND link=?", (job, link)).fetchone()
    return _boot(*row) if row is not None else None


def undated(db: sqlite3.Connection) -> list[Undated]:
    """List what is held, oldest first; some of it, if it is much."""
    rows = db.execute(
        "SELECT seq, payload, crc, boot_id, boottime_s FROM untimed JOIN results USING (seq) ORDER BY seq LIMIT ?",
        (_AT_ONCE,),
    ).fetchall()
    return [Undated(seq, payload, is_intact(payload, crc), _boot(*began)) for seq, payload, crc, *began in rows]


def _boot(boot_id: object, boottime_s: object) -> Boot:
    """Read when something began; of no boot at all where that is not what was written."""
    if worn.is_text(boot_id) and isinstance(boottime_s, int | float) and abs(boottime_s) < _LONGEST_BOOT_S:
        return Boot(boot_id, float(boottime_s))
    return Boot("", 0.0)


def release(db: sqlite3.Connection, payloads: Mapping[int, bytes | None]) -> None:
    """Let results go to the collector, as they are given here; None: as they are stored."""
    changed = [(payload, check(payload), seq) for seq, payload in payloads.items() if payload is not None]
    db.executemany("UPDATE results SET payload=?, crc=? WHERE seq=?", changed)
    db.executemany("DELETE FROM untimed WHERE seq=?", [(seq,) for seq in payloads])
    db.execute("DELETE FROM untimed WHERE seq NOT IN (SELECT seq FROM results)")  # given up by a spool that was full


# --- judging ----------------------------------------------------------------------------------------------------------


def trust(quality: ClockQuality, now_s: float, *, without_time: bool, not_before_s: float) -> Trust:
    """Judge the wall clock. `without_time`: the board boots without one. `not_before_s`: no true time is earlier.

    Who keeps a clock and does not call it right makes it bad; a kernel that nobody has told anything proves nothing on
    a machine that has a clock on battery, or whose host keeps its time.
    """
    if quality.synchronised:
        return Trust.GOOD
    if now_s < not_before_s or (quality.synchronised is False and (without_time or quality.source != "kernel")):
        return Trust.BAD
    return Trust.UNKNOWN


class Timekeeper:
    """Dates an agent's results. For the thread that measures, and no other."""

    def __init__(
        self,
        clock: Clock,
        spool: Spool,
        settings: ClockSettings,
        *,
        boot: Callable[[], Boot] = boot_now,
        without_time: bool | None = None,
        not_before_s: float | None = None,
    ) -> None:
        """Take the hands of time; `not_before_s` is at least when the last run began that the spool remembers."""
        self._clock = clock
        self._spool = spool
        self._settings = settings
        self._boot = boot
        self._not_before_s = installed_s() if not_before_s is None else not_before_s
        self._without_time = boots_without_time(self._not_before_s) if without_time is None else without_time
        if (last := spool.last_began()) is not None:
            self._not_before_s = max(self._not_before_s, last.timestamp())
        self._told: Trust | None = None

    def doubted(self) -> bool:
        """Whether a result of now has to wait until its time is known."""
        now_s = self._clock.now().timestamp()  # first: a clock set in between is still taken for what it was
        found = trust(self._clock.quality(), now_s, without_time=self._without_time, not_before_s=self._not_before_s)
        if found is not self._told:
            log.log(logging.WARNING if found is Trust.BAD else logging.INFO, "the clock is %s", found.value)
            self._told = found
        required = self._settings.require
        return required != "nothing" and (found is Trust.BAD or (found is Trust.UNKNOWN and required == "synchronised"))

    def began(self, ago_s: float = 0.0) -> Boot | None:
        """Say when what began `ago_s` ago did, if the wall clock cannot be believed; None if it can."""
        if not self.doubted():
            return None
        boot_id, boottime_s = self._boot()
        return Boot(boot_id if ago_s <= boottime_s else "", boottime_s - ago_s)

    def start(self) -> Start:
        """Look at the clocks when a run begins."""
        return Start(self._boot(), self.offset_s(), doubted=self.doubted())

    def date(self, result: Result, start: Start) -> tuple[Result, Boot | None]:
        """Mend the begin of a run that has just ended, if the clock was set while it ran; or say when it began."""
        if self.doubted():
            return result, start.at
        correction_s = self.offset_s() - start.offset_s
        if abs(correction_s) <= STEP_S:
            return result, None
        return _moved(result, correction_s, self._clock.quality()), None

    def began_at(self, started_at: datetime) -> Boot | None:
        """Say `began` of what the same wall clock stamped; what is older than this boot was stamped by another."""
        ago_s = (self._clock.now() - started_at).total_seconds()
        return self.began(ago_s if ago_s >= 0 else float("inf"))

    def offset_s(self) -> float:
        """Wall clock less CLOCK_BOOTTIME: constant, but for steps. On a busy machine the tightest of some looks."""
        looks = []
        for _ in range(_LOOKS):
            before_s, wall_s, after_s = self._boot().boottime_s, self._clock.now().timestamp(), self._boot().boottime_s
            looks.append((after_s - before_s, wall_s - (before_s + after_s) / 2))
            if after_s - before_s < _TIGHT_S:
                break
        return min(looks)[1]

    def check(self) -> int:
        """Let go what can be dated now, and what never can; return how many. Raise StorageError."""
        released = 0
        while batch := self._spool.undated():
            decided = self._decided(batch)
            if not decided:
                break
            self._spool.release(decided)
            released += len(decided)
        return released

    def _decided(self, batch: list[Undated]) -> dict[int, bytes | None]:
        doubted, now, quality = self.doubted(), self._boot(), self._clock.quality()
        offset_s = self.offset_s()
        decided: dict[int, bytes | None] = {}
        repaired = 0
        for seq, payload, intact, began in batch:
            here = began.boot_id == now.boot_id != ""
            if here and doubted and now.boottime_s - began.boottime_s < self._settings.hold_h * 3600:
                continue
            try:
                result = decode_result(payload) if intact else None
            except Undecodable:
                result = None
            if result is None:
                decided[seq] = None  # the spool puts aside what the card has spoilt, the collector what it cannot read
                continue
            if here and not doubted:
                correction_s = began.boottime_s + offset_s - result.started_at.timestamp()
                result = _moved(result, correction_s, quality)
                repaired += 1
            else:
                result = _unrepaired(result)
            decided[seq] = encode(result)
        if decided:
            lost = len(decided) - repaired
            log.info("%d results dated now that the clock is right; %d never can be, and say so", repaired, lost)
        return decided


def _moved(result: Result, correction_s: float, quality: ClockQuality) -> Result:
    """Move a result in time, and what it was due at with it, and mark it."""
    by = timedelta(seconds=correction_s)
    job = result.job
    if job is not None and job.due is not None:
        job = msgspec.structs.replace(job, due=_within(job.due, by))
    clock = msgspec.structs.replace(quality, correction_s=by.total_seconds())  # to the µs: what it said can be told
    return msgspec.structs.replace(result, started_at=_within(result.started_at, by), job=job, clock=clock)


def _within(moment: datetime, by: timedelta) -> datetime:
    """Move a moment, to the nearest microsecond, within what a calendar knows."""
    try:
        return (moment + by).astimezone(UTC)
    except OverflowError:
        return moment


def _unrepaired(result: Result) -> Result:
    """Say that a result's time is wrong; a throughput result is no sample then."""
    clock = msgspec.structs.replace(result.clock, synchronised=False)
    outcome = validity.doubted(result.outcome, Invalid.CLOCK_NOT_GOOD)
    return msgspec.structs.replace(result, clock=clock, outcome=outcome)
